"""Our agent on other people's servers, other people's agents on our server.

    python -m bench.interop [--only tasks vllm guests] [--log FILE]

What neither a variable of `bench.interop.peers` nor PATH names is skipped. The exit code is 1 where something
fails.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path

from bench.harness.agents import AGENTS
from bench.harness.report import version_of
from bench.interop.by_heart import Lesson, as_chats, as_tokens, learn
from bench.interop.checkpoints import random_llama
from bench.interop.foreign_protocol import converse, facts_of, forced_calls, whole_forced_call
from bench.interop.guests import host, script_for, visit
from bench.interop.peers import NotHereError, llama_server, own_server, transformers_serve, vllm
from bench.interop.rename import Outcome, do_task, transcript_in
from bench.interop.report import Log
from bench.interop.served import Served, ServerDidNotStartError
from dsv4_agent.backends.profile import ServerProtocol

_GUESTS = ("codex", "claude", "vibe")
Start = Callable[[Path], AbstractContextManager[Served]]


def main() -> int:
    """Try everything that is here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["tasks", "vllm", "guests"], default=None)
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    log = Log()
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    log.note(f"{date.today():%-d %B %Y}, {machine}")
    for name, work in (("tasks", tasks), ("vllm", foreign_server), ("guests", guests)):
        if given.only is None or name in given.only:
            work(log)
    text = log.close()
    if given.log is not None:
        given.log.write_text(text, encoding="utf-8")
    return 1 if log.failed else 0


def tasks(log: Log) -> None:
    """V4-Nano's rename task through `dsv4 run`, its weights in three servers; the same tokens from each."""
    log.note("\nThe rename task through dsv4 run, V4-Nano's weights served by others:")
    first: Outcome | None = None
    with tempfile.TemporaryDirectory(prefix="interop-") as name:
        folder = Path(name)
        starts: tuple[tuple[str, Start, tuple[str, ...]], ...] = (
            ("dsv4 serve", own_server, ("tokens", "chat")),
            ("llama-server", llama_server, ("tokens",)),
            ("transformers serve", transformers_serve, ("tokens",)),
        )
        for peer, start, protocols in starts:
            try:
                with start(folder) as served:
                    for protocol in protocols:
                        outcome = do_task(served, folder, protocol)
                        _judge(log, served, protocol, outcome, first)
                        first = first or outcome
            except (NotHereError, ServerDidNotStartError) as error:
                log.skip(peer, str(error).partition("\n")[0])


def _judge(log: Log, served: Served, protocol: str, outcome: Outcome, first: Outcome | None) -> None:
    who = f"{served.name} ({served.version}), {protocol}"
    good = outcome.exit_code == 0 and outcome.renamed
    log.check(who, good, f"{len(outcome.turns)} turns, exit code {outcome.exit_code}")
    if first is None:
        return
    log.check(f"{who}: the text of every turn is that of the first server", outcome.turns == first.turns)
    if protocol != ServerProtocol.TOKENS:
        return
    if all(ids is not None for ids in outcome.ids):
        tokens = sum(len(ids or ()) for ids in outcome.ids)
        log.check(f"{who}: every id is", outcome.ids == first.ids, f"{tokens} sampled ids")
    else:
        log.note("         it tells no ids")


def foreign_server(log: Log) -> None:
    """vLLM with V4's parsers over a random Llama: what it streams is read as it means it."""
    log.note("\nvLLM with the tokenizer mode and parsers deepseek_v4, over random weights:")
    with tempfile.TemporaryDirectory(prefix="interop-") as name:
        folder = Path(name)
        try:
            with vllm(folder, random_llama(folder)) as served:
                asyncio.run(_speak(log, served, folder))
                first, lessons = _lessons(served, folder)
            log.note("\nThe same with a Llama that knows V4-Nano's turns of the rename task by heart:")
            with vllm(folder, learn(lessons, folder / "by-heart")) as served:
                for protocol in ServerProtocol:
                    _judge(log, served, protocol, do_task(served, folder, protocol), first)
        except (NotHereError, ServerDidNotStartError) as error:
            log.skip("vLLM", str(error).partition("\n")[0])


def _lessons(served: Served, folder: Path) -> tuple[Outcome, list[Lesson]]:
    """What V4-Nano does in the task, and that as lessons in both protocols."""
    with own_server(folder) as own:
        outcome = do_task(own, folder, ServerProtocol.TOKENS)
    transcript = transcript_in(folder)
    assert transcript is not None, outcome.errors
    return outcome, [as_tokens(transcript), *asyncio.run(as_chats(served, transcript))]


async def _speak(log: Log, served: Served, folder: Path) -> None:
    who = f"vLLM ({served.version})"
    facts = await facts_of(served, ServerProtocol.TOKENS)
    log.check(f"{who} is recognised, with its window", (facts.kind, facts.context) == ("vllm", 8192))
    log.check(f"{who}: both tokenizers agree", facts.tokens_agree is True)
    model = facts.model or ""
    named = {"type": "function", "function": {"name": "list"}}
    for shown, choice in (("required", "required"), ("named", named)):
        calls, finished = await forced_calls(served, choice, model)
        whole = await whole_forced_call(served, choice, model)
        streamed = [(call.name, call.arguments) for call in calls]
        log.check(
            f"tool_choice {shown}: the streamed call is the whole one", streamed == whole, str(streamed)
        )
        log.check(f"tool_choice {shown}: tokens are counted", finished.usage.counted)
    chat = await converse(served, ServerProtocol.CHAT, folder / "chat")
    log.check("chat: two turns, no further attempt", not chat.retries and len(chat.sampled) == 2, chat.ending)
    log.check("chat: the journal alone gives the conversation", chat.rebuilt)
    once = await converse(served, ServerProtocol.TOKENS, folder / "once")
    again = await converse(served, ServerProtocol.TOKENS, folder / "again")
    log.check("tokens: every turn comes as ids", all(once.ids) and len(once.ids) == 2, once.ending)
    log.check("tokens: greedy is greedy", (once.sampled, once.ids) == (again.sampled, again.ids))
    cached = f"{again.cached_tokens} tokens"
    log.check("tokens: what was sent before is in its prefix cache", again.cached_tokens > 0, cached)


def guests(log: Log) -> None:
    """Agents of other people with `dsv4 serve` as their model."""
    log.note("\nOther agents on dsv4 serve, playing a script, then with V4-Nano:")
    for agent in AGENTS:
        if agent.program not in _GUESTS:
            continue
        if agent.found is None:
            log.skip(agent.name, f"{agent.program} is not on PATH")
            continue
        who = f"{agent.name} ({version_of(agent)})"
        for model in ("scripted", "nano"):
            with tempfile.TemporaryDirectory(prefix="interop-") as name:
                folder = Path(name)
                served_model = f"scripted:{script_for(agent, folder)}" if model == "scripted" else model
                with host(folder, served_model) as served:
                    seen = visit(agent, served, folder)
            if model == "scripted":
                log.check(f"{who} does the task with its own tools", seen.exit_code == 0 and seen.renamed)
            else:
                # So small a model understands another agent's prompt by chance; the protocol must hold.
                ended = seen.exit_code is not None
                log.check(f"{who} with V4-Nano comes to an end", ended, f"exit code {seen.exit_code}")
                log.note(f"         it says: {seen.last_words}")


if __name__ == "__main__":
    raise SystemExit(main())
