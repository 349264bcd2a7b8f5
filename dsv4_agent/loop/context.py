"""What fills the context, and the text that opens a session's first turn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
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


def breakdown(entries: Iterable[Entry], system_prompt: str) -> Breakdown:
    """Tokens by what they are for. The opening is shared out by characters."""
    system = tools = conversation = thinking = 0
    for entry in entries:
        tokens = entry_tokens(entry)
        if entry.kind is EntryKind.PROMPT:
            share = min(1.0, len(system_prompt) / max(1, len(entry.text)))
            system = round(tokens * share)
            tools = tokens - system
        else:
            thinking += entry.reasoning_tokens
            conversation += tokens - entry.reasoning_tokens
    return Breakdown(system=system, tools=tools, conversation=conversation, thinking=thinking)


class ContextMeter:
    """How full the window is, what the KV state holds of it, and what a break of the prefix costs."""

    MIN_ROOM = 16
    """Tokens that must be free in the context window before the model is asked."""

    def __init__(self, session: Session, window: int, system_prompt: str) -> None:
        self._session = session
        self._window = window
        self._system_prompt = system_prompt
        self._cached = 0

    @property
    def used(self) -> int:
        """Tokens of the transcript."""
        return sum(entry_tokens(entry) for entry in self._session.transcript.entries)

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
        used = self._cached = self.used
        reused = sampler.synced.reused if sampler.synced else sampler.usage.cached_input_tokens
        prefilled = sampler.synced.prefilled if sampler.synced else sampler.usage.input_tokens - reused
        kv = KvUse(
            used=used,
            limit=self._window,
            reused=reused,
            prefilled=prefilled,
            bytes=sampler.kv_bytes,
            restored=sampler.synced.restored if sampler.synced else 0,
        )
        return ContextUpdated(kv, breakdown(self._session.transcript.entries, self._system_prompt))

    def broken(self, sampler: TurnSampler) -> PrefixBreak | None:
        """What a sync lost of the state that was there, if it lost anything."""
        synced = sampler.synced
        if synced is None or synced.cause is None or synced.reused >= self._cached - 1:
            return None
        return PrefixBreak(synced.cause, self._cached - synced.reused)

    def rewound(self) -> None:
        """The conversation is shorter now: only what it still holds can be lost."""
        self._cached = min(self._cached, self.used)
