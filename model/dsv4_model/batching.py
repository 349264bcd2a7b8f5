"""Several sequences decoding together: one pass a step, each sequence with its own state and no padding.

A sequence joins and leaves at any step. Prompts are fed in pieces beside the tokens of those that decode
already, so that a long prompt delays the others by no more than one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor

from dsv4_model.engine import Engine
from dsv4_model.generation import Constraint, Generation
from dsv4_model.passes import Piece, Rows
from dsv4_model.sampling import SamplingParams
from dsv4_model.sequence import Sequence
from dsv4_model.sequence_errors import SequenceError, StopReason
from dsv4_model.sync_report import SyncReport

__all__ = ["Batch", "Member", "Step"]

PROMPT_TOKENS = 512
"""Tokens of prompts that one step feeds at most."""


@dataclass(slots=True, eq=False)
class Member:
    """One sequence in a batch. ``error`` is set when it ended by one; ``stop_reason`` otherwise.

    ``report`` says what was reused when it joined. ``marks`` are the positions, in order, that its prompt has
    yet to come to and that are kept as boundaries.
    """

    sequence: Sequence
    generation: Generation
    report: SyncReport
    marks: list[int] = field(default_factory=list)
    error: Exception | None = None
    sampled: int = 0

    @property
    def stop_reason(self) -> StopReason | None:
        """Why it ended; None while it goes on."""
        return self.generation.stop_reason

    @property
    def ended(self) -> bool:
        """Whether it has left the batch."""
        return self.error is not None or self.generation.stop_reason is not None


@dataclass(frozen=True, slots=True)
class Step:
    """What one step gave a member: a token, or None when only its prompt went on or it ended without one."""

    member: Member
    token: int | None


@dataclass(slots=True)
class Batch:
    """Continuous batching over one engine. Drive it from one thread with `step` until `members` is empty.

    ``limit`` bounds how many sequences one pass takes; those that joined first go first, and none is passed
    over twice in a row.
    """

    engine: Engine
    limit: int = 64
    members: list[Member] = field(default_factory=list)

    def add(
        self,
        sequence: Sequence,
        tokens: list[int],
        params: SamplingParams,
        *,
        constraint: Constraint | None = None,
        cancelled: Callable[[], bool] | None = None,
        marks: Iterable[int] = (),
    ) -> Member:
        """Let ``sequence`` continue ``tokens``; what is held of them anywhere is reused at once.

        ``marks`` are positions in ``tokens`` that other timelines may want to go on from.

        Raises:
            SequenceError, ContextOverflowError, CacheMemoryError: as `Sequence.adopt`; nothing was added.
        """
        if any(member.sequence is sequence for member in self.members):
            raise SequenceError("The sequence is in the batch already.", "Fork it.")
        report = sequence.adopt(tokens)
        generation = sequence.begin(params, constraint=constraint, cancelled=cancelled)
        ahead = sorted({mark for mark in marks if sequence.position < mark <= len(tokens)})
        member = Member(sequence, generation, report, ahead)
        self.members.append(member)
        return member

    def step(self) -> list[Step]:
        """One pass over all members; what each of them got. An error of one member doesn't touch the others.

        Raises:
            CacheMemoryError: no pass was possible; every member is as it was before the step
            or has returned to its last boundary, and may go on.
        """
        steps: list[Step] = []
        chosen: list[tuple[Member, list[int]]] = []
        room = PROMPT_TOKENS
        for member in self.members[: self.limit]:
            if self._choose(member, steps):
                waiting = member.sequence.pending()
                if member.marks:
                    waiting = waiting[: member.marks[0] - member.sequence.position]
                take = waiting if len(waiting) == 1 else waiting[: max(room, 0)]
                room -= len(take) if len(waiting) > 1 else 0
                if take:
                    chosen.append((member, take))
        if chosen:
            self._pass(chosen)
        gone = [member for member in self.members if member.ended]
        for member in gone:
            self._leave(member)
        # Those that had a turn go behind those that had none.
        self.members = [*self.members[self.limit :], *self.members[: self.limit]]
        self.members = [member for member in self.members if not member.ended]
        return steps

    def run(self) -> None:
        """Step until every member has ended."""
        while self.members:
            self.step()

    def _choose(self, member: Member, steps: list[Step]) -> bool:
        """Sample for a member whose logits are ready; whether it has something to be fed."""
        sequence, generation = member.sequence, member.generation
        if generation.ended(len(sequence.tokens)):
            steps.append(Step(member, None))
            return False
        logits = sequence.ready
        if logits is None:
            return True
        try:
            token = generation.choose(logits, len(sequence.tokens))
        except Exception as error:  # a constraint comes from outside: whatever it raises ends only its member
            member.error = error
            steps.append(Step(member, None))
            return False
        sequence.tokens.append(token)
        member.sampled += 1
        steps.append(Step(member, token))
        return generation.stop_reason is None

    def _pass(self, chosen: list[tuple[Member, list[int]]]) -> None:
        try:
            for member, ids in chosen:
                member.sequence.cache.prepare(len(ids))
            pieces = [Piece(member.sequence.cache, ids, Rows.LAST) for member, ids in chosen]
            logits, _ = self.engine.forward(pieces)
        except BaseException:
            for member, _ in chosen:
                member.sequence.failed()
            raise
        for (member, _), row in zip(chosen, _rows(logits), strict=True):
            member.sequence.computed(row)
        for member, _ in chosen:
            if member.marks and member.marks[0] <= member.sequence.position:
                del member.marks[0]
                member.sequence.remember()

    @staticmethod
    def _leave(member: Member) -> None:
        member.sequence.stop_reason = member.stop_reason
        member.sequence.remember()


def _rows(logits: Tensor) -> list[Tensor]:
    return list(logits.unbind(0))
