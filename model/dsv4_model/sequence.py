"""One mutable inference timeline: it owns its KV state and decides what of it to reuse."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ids
from typing import TYPE_CHECKING

from torch import Tensor

from dsv4_model.boundaries import Boundaries
from dsv4_model.cache.kv_cache import Boundary, KVCache, SavedSlots
from dsv4_model.generation import Constraint, Generation
from dsv4_model.passes import Piece, Rows
from dsv4_model.sampling import SamplingParams
from dsv4_model.sequence_errors import ContextOverflowError, PrefillCancelledError, SequenceError, StopReason
from dsv4_model.speculation import Guess, Speculation, SpeculationReport
from dsv4_model.sync_report import SyncReport
from dsv4_model.token_prefix import common_prefix

if TYPE_CHECKING:
    from dsv4_model.engine import Engine

__all__ = ["PREFILL_CHUNK", "Sequence", "SyncReport"]

PREFILL_CHUNK = 512


class Sequence:
    """Tokens and the KV state of a prefix of them.

    ``tokens`` holds everything synced or sampled. The state covers all of it but, after a generation, the
    last sampled token: that one is pending and is fed exactly once, when it is next needed.

    Boundaries (points to return to) and forks share the compressed pages with the timeline; each holds its
    own copy of the rings. A sequence is not thread-safe; give each thread a fork.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tokens: list[int] = []
        self.stop_reason: StopReason | None = None
        self.cache: KVCache = engine.new_cache()
        self._logits: Tensor | None = None
        self._boundaries = Boundaries()
        self._epoch = 0  # a generation that finds another epoch than its own has been overtaken
        self.drafting = Speculation(engine.passes, self.cache) if engine.speculates else None
        self._guesses: list[Guess] = []
        self._overwritten: SavedSlots = ()
        engine.resident.add(self)

    @property
    def position(self) -> int:
        """How many tokens the KV state covers; at most ``len(tokens)``."""
        return self.cache.position - len(self._guesses)

    @property
    def boundaries(self) -> tuple[Boundary, ...]:
        """The points that this timeline can return to without computing anything."""
        return tuple(self._boundaries)

    def latest_boundary(self, position: int) -> Boundary | None:
        """The last of them at or before ``position``."""
        return self._boundaries.latest(position)

    @property
    def speculation(self) -> SpeculationReport | None:
        """How drafting went; None where the engine doesn't draft."""
        return None if self.drafting is None else self.drafting.report()

    def sync(self, tokens: Ids[int], *, cancelled: Callable[[], bool] | None = None) -> SyncReport:
        """Make this sequence hold exactly ``tokens``, computing as little as possible.

        An extension computes only the new part. A shorter or diverging prefix goes back to the longest
        usable state: a boundary of this timeline, of another one in this process, or a stored one on disk.

        Raises:
            ContextOverflowError: more tokens than the context window; nothing was changed.
            SequenceError: an id outside the vocabulary; nothing was changed.
            CacheMemoryError: no memory for them; the sequence holds what it held before, or less.
            CheckpointError: the weights' files have changed since they were loaded; nothing was changed.
            PrefillCancelledError: ``cancelled`` became true; the sequence holds the part that was computed.
        """
        report = self.adopt(tokens)
        try:
            if self.tokens:
                self.cache.prepare(len(self.tokens) - self.position)
                self._advance(cancelled)
        except BaseException:
            del self.tokens[self.position :]
            raise
        self._remember()
        return report

    def adopt(self, tokens: Ids[int]) -> SyncReport:
        """The first half of `sync`: take ``tokens`` and the longest usable state of them, compute nothing.

        What is missing is pending. Raises as `sync` does before it computes.
        """
        tokens = list(tokens)
        self._check(tokens)
        self._settle()
        self._epoch += 1
        self.stop_reason = None
        common = common_prefix(self.tokens, tokens)
        cause, restored_from = None, None
        if common < len(self.tokens):
            cause = f"shortened to token {common}" if common == len(tokens) else f"diverged at token {common}"
        held = min(common, self.position)
        if self.position > common:
            restored_from = self._restore(common)
            held = self.position
        self._boundaries.drop_after(common)
        self.tokens = tokens[:common]
        found = self._take_over(tokens)
        reused = self.position
        self.tokens = tokens
        return SyncReport(reused, len(tokens) - reused, found or restored_from, cause, reused - held)

    def rewind(self, position: int) -> SyncReport:
        """Go back to the first ``position`` tokens: exactly, replaying what lies after the last boundary.

        Raises `SequenceError` where there are fewer tokens.
        """
        if not 0 <= position <= len(self.tokens):
            raise SequenceError(
                f"There is no token {position} in a sequence of {len(self.tokens)}.",
                "Rewind to an earlier one.",
            )
        return self.sync(self.tokens[:position])

    def generate(
        self,
        params: SamplingParams,
        *,
        constraint: Constraint | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[int]:
        """Sample the continuation, yielding each id (EOS included) as it is chosen.

        Ends at EOS or a stop id, after ``max_tokens``, at the end of the context window, or when
        ``cancelled`` becomes true; ``stop_reason`` tells which. The iterator may be dropped at any point:
        every id that was yielded is in ``tokens``. It must not be resumed after another ``sync`` or
        ``generate``.

        Raises:
            SequenceError: there is nothing to continue.
            ContextOverflowError: the context window is full already.
            SamplingError: unusable logits or constraint.
        """
        generation = self.begin(params, constraint=constraint, cancelled=cancelled)
        return self._generate(generation, cancelled, self._epoch)

    def begin(
        self,
        params: SamplingParams,
        *,
        constraint: Constraint | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Generation:
        """The choices of a new generation, for whoever drives the passes; raises as `generate` does."""
        if not self.tokens:
            raise SequenceError("There is nothing to continue.", "Call sync with a prompt first.")
        window = self.engine.context_window
        if len(self.tokens) >= window:
            raise ContextOverflowError.of(len(self.tokens) + 1, window)
        self._epoch += 1
        self.stop_reason = None
        return Generation(self.tokens, params, self.engine.tokenizer, window, constraint, cancelled)

    def fork(self) -> Sequence:
        """An independent sequence at the same point.

        Copies the rings (window rows and unfinished blocks), shares the pages: the cost does not grow with
        the KV state, only the list of token ids is copied.
        """
        self._settle()
        twin = object.__new__(Sequence)
        twin.engine = self.engine
        twin.tokens = list(self.tokens)
        twin.stop_reason = self.stop_reason
        twin.cache = self.cache.fork()
        twin._logits = self._logits
        twin._boundaries = self._boundaries.copy()
        twin._epoch = 0
        twin._guesses, twin._overwritten = [], ()
        twin.drafting = None
        if self.drafting is not None:
            mine = self.drafting
            twin.drafting = Speculation(self.engine.passes, twin.cache, mine.adaptive, mine.guesses)
            twin.drafting.streams = mine.streams
        self.engine.resident.add(twin)
        return twin

    def usage(self) -> dict[str, int]:
        """Bytes of the KV state by kind; boundaries are not counted.

        Kinds: window, csa_entries, hca_entries, index_keys (pages of 128 tokens, as allocated), partial (rows
        of unfinished blocks), draft (the MTP block's window).
        """
        return self.cache.usage()

    def pending(self) -> list[int]:
        """The tokens that the state doesn't cover yet, at most one chunk; for whoever drives the passes."""
        self._settle()
        return self.tokens[self.position : self.position + PREFILL_CHUNK]

    @property
    def ready(self) -> Tensor | None:
        """The logits ``[vocab]`` after the last token; None while tokens are pending."""
        return self._logits if self.position == len(self.tokens) else None

    def computed(self, logits: Tensor) -> None:
        """A pass that someone else drove has fed `pending`; ``logits`` ``[vocab]`` follow the last of it."""
        self._logits = logits
        if self.drafting is not None:
            self.drafting.reset()
        self._pass_milestone()

    def failed(self) -> None:
        """A pass over this sequence broke off: the state returns to the last boundary, the tokens stay."""
        self._guesses.clear()
        self._restore(len(self.tokens))

    def remember(self) -> None:
        """Keep this point to return to."""
        self._settle()
        self._remember()

    def _generate(
        self, generation: Generation, cancelled: Callable[[], bool] | None, epoch: int
    ) -> Iterator[int]:
        try:
            while not generation.ended(len(self.tokens)):
                logits = self._advance(cancelled, generation)
                token = generation.choose(logits, len(self.tokens))
                self.tokens.append(token)
                self.stop_reason = generation.stop_reason
                yield token
                if self._epoch != epoch:
                    raise SequenceError(
                        "The sequence has moved on since this generation began.",
                        "Start a new generate after sync; use fork to keep both.",
                    )
            self.stop_reason = generation.stop_reason
        except PrefillCancelledError:
            self.stop_reason = StopReason.CANCELLED
        finally:
            if self._epoch == epoch:
                self._settle()
                self._remember()

    def _advance(self, cancelled: Callable[[], bool] | None, generation: Generation | None = None) -> Tensor:
        """Feed what the state doesn't cover yet; the logits ``[vocab]`` after the last token."""
        if self._guesses and len(self.tokens) > self.position:
            self._check_guess()
        while self.position < len(self.tokens):
            self._pass_milestone()
            if cancelled is not None and cancelled():
                raise PrefillCancelledError(
                    f"The prompt was cancelled after {self.position} of {len(self.tokens)} tokens.",
                    "Sync again to go on from there.",
                )
            missing = len(self.tokens) - self.position
            if missing == 1 and generation is not None and self.drafting is not None:
                self._decode(self.drafting, generation)
            else:
                self._prefill(min(missing, PREFILL_CHUNK))
        if self._logits is None:
            raise SequenceError("There is nothing to continue.", "Call sync with a prompt first.")
        return self._logits

    def _prefill(self, count: int) -> None:
        """Feed the next ``count`` tokens."""
        start = self.position
        ids = self.tokens[start : start + count]
        end = start + count
        # Only the last window of a prompt can still be seen by the MTP block when it drafts.
        near = len(self.tokens) - end < self.engine.config.sliding_window
        speculation = self.drafting
        drafts = speculation is not None and near
        logits, streams = self._pass(ids, Rows.LAST, Rows.ALL if drafts else Rows.NONE)
        self._logits = logits[-1]
        if speculation is not None and drafts:
            speculation.saw(streams)
            assert speculation.streams is not None
            first = end - speculation.streams.shape[0]
            speculation.catch_up(self.tokens[first + 1 : end + 1])
        elif speculation is not None:
            speculation.reset()

    def _decode(self, speculation: Speculation, generation: Generation) -> None:
        """Feed the one pending token, together with guesses of the next where that pays."""
        token, position = self.tokens[-1], len(self.tokens)
        started = time.perf_counter()
        guessed: list[int] = []
        room = self.engine.context_window - position - 1
        wanted = min(speculation.wanted(), room)
        if wanted > 0 and speculation.streams is not None:
            following = self.tokens[-speculation.streams.shape[0] :]
            guessed = speculation.guess(following, generation.sampler, position, wanted)
        # The first guess's slot needs no copy: what it held can't be seen from its position.
        further = range(position + 1, position + len(guessed))
        self._overwritten = self.cache.save_slots(further) if further else ()
        logits, streams = self._pass([token, *guessed], Rows.ALL if guessed else Rows.LAST, Rows.ALL)
        self._logits = logits[0]
        self._guesses = [Guess(g, row) for g, row in zip(guessed, logits[1:], strict=True)]
        if speculation.pays:
            speculation.saw(streams)
        speculation.timed(started, guesses=len(guessed))

    def _check_guess(self) -> None:
        """The token for which a guess stands has been chosen: is it the guess?"""
        guess, speculation = self._guesses[0], self.drafting
        assert speculation is not None
        right = self.tokens[self.position] == guess.token
        speculation.verdict(right)
        if right:
            del self._guesses[0]
            self._logits = guess.logits
        else:
            self._settle()

    def _settle(self) -> None:
        """Take unconfirmed guesses back out of the state."""
        count = len(self._guesses)
        if not count:
            return
        self._guesses.clear()
        self.cache.retreat(count)
        if self._overwritten:
            self.cache.put_back(self._overwritten, self.cache.position + 1)
            self._overwritten = ()
        if self.drafting is not None and self.drafting.streams is not None:
            self.drafting.streams = self.drafting.streams[:-count]

    def _pass(self, ids: list[int], logits: Rows, streams: Rows) -> tuple[Tensor, Tensor]:
        try:
            self.cache.prepare(len(ids))
            return self.engine.forward([Piece(self.cache, ids, logits, streams)])
        except BaseException:
            self.failed()
            raise

    def _restore(self, common: int) -> str:
        """Go back to the latest boundary that covers at most ``common`` tokens, or to nothing."""
        best = self._boundaries.latest(common)
        self.cache.restore(best)
        self._logits = None if best is None else best.logits
        if self.drafting is not None:
            self.drafting.reset()
        return "nothing" if best is None else f"snapshot at {best.position}"

    def _take_over(self, tokens: list[int]) -> str | None:
        """Take over a longer state of these tokens from another timeline or from disk, if there is one."""
        found = self.engine.find_boundary(tokens, self)
        source = "fork"
        stored = self.engine.find_stored(tokens, max(self.position, found.position if found else 0))
        if stored is not None:
            found, source = stored, "disk"
        if found is None or found.position <= self.position:
            return None
        self.cache.restore(found)
        self._logits = found.logits
        self._boundaries.add(found)
        if self.drafting is not None:
            self.drafting.reset()
        return f"{source} at {found.position}"

    def _remember(self, *, asked_for: bool = True) -> None:
        """Keep the current point."""
        if self._logits is None or (asked_for and self._boundaries.ask_for(self.position)):
            return
        self._logits = self._logits.clone()  # one row of a batch's would keep those of all its members
        self._boundaries.add(self.cache.boundary(self._logits), asked_for=asked_for)

    def _pass_milestone(self) -> None:
        """Keep the current point, if none is near, so that going back replays little."""
        if not self._guesses and self._boundaries.wants_milestone(self.position):
            self._remember(asked_for=False)

    def _check(self, tokens: list[int]) -> None:
        if len(tokens) > self.engine.context_window:
            raise ContextOverflowError.of(len(tokens), self.engine.context_window)
        size = self.engine.config.vocab_size
        wrong = next((token for token in tokens if not 0 <= token < size), None)
        if wrong is not None:
            raise SequenceError(
                f"Token id {wrong} is outside the vocabulary of {size}.",
                "Encode with the tokenizer of this model.",
            )
        self.engine.check()
