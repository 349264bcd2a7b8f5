"""The plain chat from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

from dsv4_agent.chat.dialogue import Dialogue
from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.plain.desk import Desk
from dsv4_agent.plain.labels import LOADING, Label
from dsv4_agent.plain.listening import Listener
from dsv4_agent.plain.narrator import Narrator
from dsv4_agent.plain.parts import Parts
from dsv4_agent.plain.printer import Printer
from dsv4_agent.plain.signals import handled_signals
from dsv4_agent.plain.standard import standard_terminal
from dsv4_agent.plain.talk import Talk
from dsv4_agent.plain.terminal import Terminal
from dsv4_agent.workbench.crash_report import write_crash_report

MakeTerminal = Callable[[Parts], Terminal]


async def chat(
    options: ChatOptions,
    *,
    stream_thinking: bool = False,
    make_terminal: MakeTerminal | None = None,
) -> int:
    """Hold a chat on standard input and output until the person leaves; the exit code.

    0, or 128 and the number of the signal that ended it; 1 after an error of the program itself. Output that
    can't be written any more ends it too: 141 where its reader has gone, 129 where the terminal has, else 54.
    """
    dialogue = Dialogue(options)
    parts = Parts(options)
    terminal = (make_terminal or standard_terminal)(parts)
    desk = Desk(terminal)
    printer = parts.printer = Printer(functools.partial(_write, terminal, desk))
    narrator = Narrator(printer, stream_thinking=stream_thinking)
    talk = parts.talk = Talk(dialogue, terminal, printer, narrator, desk, terminal.load_draft())
    listener = Listener(dialogue, printer, narrator, desk)
    terminal.open()
    try:
        with handled_signals(talk.interrupt, desk.leave, terminal.close) as ending:
            printer.sentence(LOADING)
            failed = await _hold(dialogue, talk, listener, desk, printer)
    finally:
        terminal.close()
    if not failed and ending.received is None and terminal.lost is not None:
        return _say_lost(terminal.lost)
    return 1 if failed else ending.code


def _write(terminal: Terminal, desk: Desk, text: str) -> None:
    """Print, or leave: what nobody can see must not go on, commands and changes to files least of all."""
    terminal.write(text)
    if terminal.lost is not None:
        desk.leave()


def _say_lost(error: Exception) -> int:
    """Name the reason where there still is somebody to tell it; the exit code."""
    if isinstance(error, BrokenPipeError):
        return 141
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return 129
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    remedy = " Free some space." if isinstance(error, OSError) and error.errno == errno.ENOSPC else ""
    with contextlib.suppress(OSError, ValueError):
        print(f"dsv4: error: the output can't be written: {reason}.{remedy}", file=sys.stderr)
    return 54


async def _hold(dialogue: Dialogue, talk: Talk, listener: Listener, desk: Desk, printer: Printer) -> bool:
    """Run all parts until the chat is left; whether one of them failed."""
    model = asyncio.create_task(dialogue.run())
    tasks = [model, asyncio.create_task(talk.run()), asyncio.create_task(listener.run())]
    left = asyncio.create_task(desk.left.wait())
    asyncio.get_running_loop().set_exception_handler(lambda _, context: _stray(printer, context))
    await asyncio.wait([*tasks, left], return_when=asyncio.FIRST_COMPLETED)
    errors = [error for task in tasks if task.done() and (error := task.exception()) is not None]
    dialogue.interrupt()
    desk.leave()
    session = _kept(dialogue)
    for task in (*reversed(tasks), left):
        task.cancel()
    await asyncio.gather(*tasks, left, return_exceptions=True)
    for error in errors:
        _report(printer, error, "the chat ends")
    if session:
        printer.say(Label.SESSION, f"kept; dsv4 chat --resume {session} goes on with it.")
    return bool(errors)


def _kept(dialogue: Dialogue) -> str | None:
    """The id of the session, where there is anything in it to go on with."""
    agent = None if dialogue.conversation is None else dialogue.conversation.agent
    return agent.session.id if agent is not None and agent.session.prompts_said else None


def _stray(printer: Printer, context: Mapping[str, Any]) -> None:
    """An error that nobody waited for; asyncio would print its traceback."""
    error = context.get("exception")
    if isinstance(error, Exception):
        _report(printer, error, "the chat goes on")


def _report(printer: Printer, error: BaseException, then: str) -> None:
    where = write_crash_report(error)
    report = f" Report: {where}" if where else ""
    printer.say(Label.ERROR, f"internal error ({type(error).__name__}); {then}.{report}")
