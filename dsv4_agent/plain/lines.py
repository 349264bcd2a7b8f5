"""A terminal as a stream of lines: no cursor movement, no escape sequence, the echo left to the kernel."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import select
import termios
from collections import deque
from collections.abc import Callable
from typing import TextIO

from dsv4_agent.plain.terminal import Ask, Ended, Reading, Typed, Withdrawn

_CHUNK = 65_536


class LineTerminal:
    """Standard input and output, or what stands for them. `remember` is told what was typed.

    Read in the event loop and not in a thread: only so is it certain what came before a question.
    """

    edits = False

    def __init__(self, source: int, sink: TextIO, *, remember: Callable[[str], None] | None = None) -> None:
        self._source = source
        self._sink = sink
        self._remember = remember
        self._typing = os.isatty(source)
        self.echoes = self._typing and sink.isatty()
        self.patient = not self._typing
        self.ended = False
        self.lost: Exception | None = None
        self._watched = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial = ""
        self._lines: deque[str] = deque()
        self._continued: list[str] = []
        self._waiting: asyncio.Future[Reading] | None = None
        self._ask: Ask | None = None
        self._inside_line = False

    def open(self) -> None:
        """Listen; what can't be listened to, such as a file, is read when a line is wanted."""
        with contextlib.suppress(OSError):
            asyncio.get_running_loop().add_reader(self._source, self._readable)
            self._watched = True

    def load_draft(self) -> str:
        """Nothing: a draft can't be put in front of the cursor."""
        return ""

    def close(self) -> None:
        """Stop listening."""
        if self._watched:
            self._watched = False
            asyncio.get_running_loop().remove_reader(self._source)
        if self._inside_line:
            self._put("\n")

    def write(self, text: str) -> None:
        """Print lines, in front of the prompt if one is shown."""
        shown, self._inside_line = self._inside_line, False
        self._put(f"\n{text}" if shown else text)
        if shown:
            self.refresh()

    async def read(self, ask: Ask) -> Reading:
        """The next line; a backslash at its end goes on with the next one."""
        self._ask = ask
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            self._prompt(ask)
            while not self._watched and not self.ended and not self._lines:
                self._take(self._read_some())
            self._serve()
            return await self._waiting
        finally:
            self._ask = self._waiting = None

    def refresh(self) -> None:
        """Show the prompt where there is one and it is not on the screen."""
        if self._ask is not None:
            self._prompt(self._ask)

    def withdraw(self) -> None:
        """End the reading."""
        self._finish(Withdrawn())

    def break_line(self) -> None:
        """The kernel may have echoed `^C`, and has dropped the line that was being typed."""
        self._continued.clear()
        self._inside_line = self._inside_line or self.echoes

    def drop_typed(self) -> int:
        """Forget lines that are read, lines that wait in the kernel, and the one being typed."""
        while self._watched and not self.ended and select.select([self._source], [], [], 0)[0]:
            self._take(self._read_some())
        dropped = len(self._lines) + bool(self._partial)
        self._lines.clear()
        self._continued.clear()
        self._partial = ""
        if self._typing:
            with contextlib.suppress(termios.error, OSError):
                termios.tcflush(self._source, termios.TCIFLUSH)
        return dropped

    # -- reading -----------------------------------------------------------------------------------------

    def _readable(self) -> None:
        self._take(self._read_some())
        self._serve()

    def _read_some(self) -> bytes:
        try:
            return os.read(self._source, _CHUNK)
        except InterruptedError:
            return b""
        except OSError:  # the terminal is gone
            self._typing = False
            return b""

    def _take(self, data: bytes) -> None:
        text = self._partial + self._decoder.decode(data, final=not data)
        *whole, self._partial = text.split("\n")
        self._lines.extend(line.removesuffix("\r") for line in whole)
        if data:
            return
        if self._partial:
            self._lines.append(self._partial)
            self._partial = ""
        if self._typing:  # Ctrl+D: there may be more after it
            self._finish(Ended())
            return
        self.ended = True
        if self._watched:
            self._watched = False
            asyncio.get_running_loop().remove_reader(self._source)

    def _serve(self) -> None:
        if self._ask is None or self._waiting is None or self._waiting.done():
            return
        while self._lines:
            line = self._lines.popleft()
            if self.echoes:
                self._inside_line = False  # the echo of Enter has ended it
            if line.endswith("\\") and not self._ask.question:
                self._continued.append(line[:-1])
                continue
            text = "\n".join([*self._continued, line])
            self._continued.clear()
            if self._remember is not None and not self._ask.question:
                self._remember(text)
            self._finish(Typed(text))
            return
        if self.ended:
            self._finish(Ended())

    def _finish(self, reading: Reading) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(reading)

    # -- printing ----------------------------------------------------------------------------------------

    def _prompt(self, ask: Ask) -> None:
        prompt = ask.prompt()
        if not prompt or self._inside_line:
            return
        if self.echoes:
            self._inside_line = True
            self._put(prompt)
        elif ask.question:  # nothing typed will end this line, so it is ended here
            self._put(f"{prompt.rstrip()}\n")

    def _put(self, text: str) -> None:
        if self.lost is not None:
            return
        encoding = self._sink.encoding or "utf-8"
        try:
            self._sink.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._sink.flush()
        except (OSError, ValueError) as error:
            self.lost = error
