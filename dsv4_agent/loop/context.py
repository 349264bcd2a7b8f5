"""What fills the context, and the text that opens a session's first turn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dsv4_agent.backends.text import estimate_tokens
from dsv4_agent.loop.events import Breakdown, GitInfo, SandboxInfo
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
