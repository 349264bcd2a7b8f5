"""What fills the context, and the text that opens a session's first turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from dsv4_agent.backends.text import estimate_tokens
from dsv4_agent.loop.events import ContextUpdated, PrefixBreak
from dsv4_agent.loop.facts import Breakdown, GitInfo, KvUse, SandboxInfo
from dsv4_agent.loop.sampling import TurnSampler
from dsv4_agent.session.session import Session
from dsv4_agent.session.transcript import Entry, EntryKind


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the front end knows about the surroundings of a run; it goes into the `init` event."""

    cwd: str
    git: GitInfo | None = None
    trusted: bool = False
    ignored_repo_config: tuple[str, ...] = ()
    sandbox: SandboxInfo = field(default_factory=SandboxInfo)
    memory_files: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()


def environment_block(facts: RunFacts) -> str:
    """Clock, folder and git status as user-side text, so that the prefix stays the same for every session."""
    lines = [f"Working directory: {facts.cwd}", f"Date: {datetime.now(UTC).date().isoformat()}"]
    if facts.git is None:
        lines.append("Not a git repository.")
    else:
        state = "with uncommitted changes" if facts.git.dirty else "clean"
        lines.append(f"Git: branch {facts.git.branch or '(detached)'}, {state}")
    return "<environment>\n" + "\n".join(lines) + "\n</environment>"


def entry_tokens(entry: Entry) -> int:
    """Length of an entry in tokens, estimated where it has no ids."""
    return len(entry.ids) if entry.ids is not None else estimate_tokens(entry.text)


def opening_share(entry: Entry, system_prompt: str) -> Breakdown:
    """An opening's tokens, shared out by characters."""
    tokens = entry_tokens(entry)
    system = round(tokens * min(1.0, len(system_prompt) / max(1, len(entry.text))))
    return Breakdown(system=system, tools=tokens - system)


class _Tally:
    """Counts a growing transcript's entries once each; from the start again when it was cut."""

    def __init__(self, system_prompt: str) -> None:
        self._system_prompt = system_prompt
        self._counted: list[Entry] = []
        self._sum = Breakdown()
        self._served: tuple[int, int] | None = None

    def count(self, entries: Sequence[Entry]) -> Breakdown:
        """Tokens by what they are for."""
        known = self._counted
        # A transcript grows, is cut, or gets another opening: its ends tell.
        last = len(known) - 1
        if known and not (last < len(entries) and entries[0] is known[0] and entries[last] is known[last]):
            self._counted, self._sum, self._served = [], Breakdown(), None
        for entry in entries[len(self._counted) :]:
            self._add(entry)
        return self._sum

    def counted_by_server(self, entries: Sequence[Entry], tokens: int) -> None:
        """A server has counted all entries so far: our estimate of them gives way to that."""
        self.count(entries)
        self._served = (tokens, self._sum.total)

    @property
    def used(self) -> int:
        """Tokens of what was counted last."""
        counted, estimated = self._served or (0, 0)
        return counted + self._sum.total - estimated

    def _add(self, entry: Entry) -> None:
        self._counted.append(entry)
        if entry.kind is EntryKind.PROMPT:
            self._sum = opening_share(entry, self._system_prompt)
            return
        tokens, thinking = entry_tokens(entry), entry.reasoning_tokens
        self._sum = replace(
            self._sum,
            conversation=self._sum.conversation + tokens - thinking,
            thinking=self._sum.thinking + thinking,
        )


class ContextMeter:
    """How full the window is, what the KV state holds of it, and what a break of the prefix costs."""

    MIN_ROOM = 16
    """Tokens that must be free in the context window before the model is asked."""

    def __init__(self, session: Session, window: int, system_prompt: str) -> None:
        self._session = session
        self._window = window
        self._tally = _Tally(system_prompt)
        self._cached = 0

    @property
    def used(self) -> int:
        """Tokens of the transcript: of its ids, else as a server counted them, else estimated."""
        self._tally.count(self._session.transcript.entries)
        return self._tally.used

    def room(self) -> int | None:
        """Tokens that may still be sampled; None where there is no room worth a turn."""
        room = self._window - self.used
        return None if room < self.MIN_ROOM else room

    def full(self) -> str:
        """Why there is no room, with the remedy."""
        return (
            f"the context window is full ({self.used} of {self._window} tokens): "
            "compact the conversation, start a new session, or take a model with a larger window"
        )

    def update(self, sampler: TurnSampler) -> ContextUpdated:
        """The state after a turn's sampling."""
        entries, usage = self._session.transcript.entries, sampler.usage
        if usage.counted and not self._session.transcript.has_tokens:
            self._tally.counted_by_server(entries, usage.input_tokens + usage.output_tokens)
        used = self._cached = self.used
        reused = sampler.synced.reused if sampler.synced else usage.cached_input_tokens
        prefilled = sampler.synced.prefilled if sampler.synced else usage.input_tokens - reused
        kv = KvUse(
            used=used,
            limit=self._window,
            reused=reused,
            prefilled=prefilled,
            bytes=sampler.kv_bytes,
            restored=sampler.synced.restored if sampler.synced else 0,
        )
        return ContextUpdated(kv, self._tally.count(entries))

    def broken(self, sampler: TurnSampler) -> PrefixBreak | None:
        """What a sync lost of the state that was there, if it lost anything."""
        synced = sampler.synced
        if synced is None or synced.cause is None or synced.reused >= self._cached - 1:
            return None
        return PrefixBreak(synced.cause, self._cached - synced.reused)

    def rewound(self) -> None:
        """The conversation is shorter now: only what it still holds can be lost."""
        self._cached = min(self._cached, self.used)
