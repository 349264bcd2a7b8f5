"""A model tried out: what its server is, and one small task with a tool, as the agent would do it."""

from __future__ import annotations

import secrets
import tempfile
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dsv4_agent.backends.base import ModelError
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.probe.thorough import Inspected, inspect
from dsv4_agent.backends.profile import Prices, ServerProfile
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.events import ItemCompleted, Retry, RunResult, TurnCompleted
from dsv4_agent.loop.guards import Limits
from dsv4_agent.permissions.decision import Policy, SandboxMode
from dsv4_agent.session.session import Session
from dsv4_agent.workbench.findings import Finding, Grade, of_line
from dsv4_agent.workbench.model_options import ModelOptions
from dsv4_agent.workbench.model_profiles import KnownProfile
from dsv4_agent.workbench.opened_model import OpenedModel
from dsv4_agent.workbench.private_file import write_private
from dsv4_agent.workbench.remembered_facts import forget
from dsv4_agent.workbench.server_findings import server_findings
from dsv4_agent.workbench.server_models import ServerModel, await_here, failure_of, open_probed, with_key

_LIMITS: Final = Limits(max_turns=4, max_tokens=16_384, max_time=600.0)
_FILE: Final = "note.txt"


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it. `answered` says that the task was done."""

    findings: tuple[Finding, ...]
    answered: bool


def try_model(known: KnownProfile) -> Trial:
    """Probe a server thoroughly and let the agent read a file there. Samples tokens, which may cost.

    Raises `RunFailure`: 41 where it can't be reached or refuses the key, 52 where it doesn't fit.
    """
    profile = with_key(known)
    forget(profile)  # who tries it has changed something
    try:
        inspected = await_here(_inspected(profile))
    except ModelError as error:
        raise failure_of(error, profile) from error
    server = ServerModel(profile, inspected.probed)
    opened = open_probed(server, ModelOptions(tools=("read",)))
    found = server_findings(profile, server.facts, server.protocol)
    with tempfile.TemporaryDirectory(prefix="dsv4-trial-") as folder:
        tried, answered = await_here(_task(opened, Path(folder).resolve()))
    spent = _spent(profile.prices, inspected)
    return Trial((*found, Finding("probe", Grade.OK, spent), *tried), answered)


async def _inspected(profile: ServerProfile) -> Inspected:
    client = ServerClient(profile)
    try:
        return await inspect(profile, client)
    finally:
        await client.aclose()


async def _task(opened: OpenedModel, folder: Path) -> tuple[list[Finding], bool]:
    """Read a file whose content no model can guess."""
    word = secrets.token_hex(4)
    write_private(folder / _FILE, f"{word}\n")
    session = Session.create(ephemeral=True)
    calls, turns, retries = 0, 0, 0
    result: RunResult | None = None
    try:
        agent = make_agent(
            folder,
            opened.backend,
            opened.preset,
            policy=Policy(folder, sandbox=SandboxMode.READ_ONLY),
            session=session,
            limits=_LIMITS,
        )
        async with aclosing(agent.run(f"Show me what is in {_FILE}.")) as events:
            async for event in events:
                match event:
                    case ItemCompleted(item) if getattr(item, "tool", None) == "read":
                        calls += 1
                    case TurnCompleted():
                        turns += 1
                    case Retry():
                        retries += 1
                    case RunResult():
                        result = event
    finally:
        session.close()
        await opened.backend.close()
    assert result is not None, "the loop promises a result, last"
    return _judged(result, calls, turns, retries, word)


def _judged(result: RunResult, calls: int, turns: int, retries: int, word: str) -> tuple[list[Finding], bool]:
    found: list[Finding] = []
    if result.is_error:
        return [of_line("task", result.error or "the task failed")], False
    said = word in result.result
    if calls:
        found.append(Finding("tool call", Grade.OK, "called and read back"))
    else:
        remedy = 'Check the server\'s tool parser, or set protocol = "tokens"'
        found.append(Finding("tool call", Grade.PROBLEM, "the model called no tool", remedy))
    if said or calls:
        grade = Grade.OK if said else Grade.NOTE
        found.append(Finding("answer", grade, "right" if said else "given, but without what the file says"))
    usage = result.usage
    cached = f", {usage.cached_input_tokens:,} of them cached" if usage.cached_input_tokens else ""
    cost = f", {usage.cost:.6f} {usage.currency}" if usage.cost is not None else ""
    again = f", {retries} attempts repeated" if retries else ""
    text = (
        f"{turns} turns in {result.duration_ms / 1000:.1f} s: {usage.input_tokens:,} tokens read{cached}, "
        f"{usage.output_tokens:,} sampled{cost}{again}"
    )
    return [*found, Finding("task", Grade.OK, text)], bool(calls)


def _spent(prices: Prices | None, inspected: Inspected) -> str:
    read, sampled = inspected.prompt_tokens, inspected.sampled_tokens
    text = f"took {read:,} tokens of prompts and {sampled:,} sampled ones"
    if prices is None:
        return text
    return f"{text}, {(read * prices.miss + sampled * prices.output) / 1e6:.6f} {prices.currency} at most"
