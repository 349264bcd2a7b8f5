"""Long and hostile output made fit for the model: no terminal control, bounded, the whole kept in a file."""

from __future__ import annotations

import codecs
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

OUTPUT_LIMIT = 30_000
_PENDING_LIMIT = 65_536
_OSC = re.compile(r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\n\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?")
_CSI = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?")
_ESCAPE = re.compile(r"\x1b[ -/]*[0-~]?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def plain(text: str) -> str:
    """The text as a dumb printer would leave it: control sequences gone, carriage returns played out.

    Of the versions that a line went through (`\\r`), the last is kept; newlines and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    for sequence in (_OSC, _CSI, _ESCAPE):
        text = sequence.sub("", text)
    if "\b" in text:
        text = _backspaced(text)
    if "\r" in text:
        text = "\n".join(_last_version(line) for line in text.split("\n"))
    return _CONTROL.sub("", text)


def _backspaced(text: str) -> str:
    """Each backspace takes the character before it, but no newline. One pass: output may be hostile."""
    kept: list[str] = []
    for char in text:
        if char != "\b":
            kept.append(char)
        elif kept and kept[-1] != "\n":
            kept.pop()
    return "".join(kept)


def _last_version(line: str) -> str:
    return next((version for version in reversed(line.split("\r")) if version), "")


@dataclass(frozen=True, slots=True)
class Bounded:
    """Text within the limit; `path` holds all of it when something was left out."""

    text: str
    omitted: int = 0
    path: Path | None = None


class OutputBuffer:
    """Takes raw bytes as they come and keeps a clean head and tail, in bounded memory.

    Once the text outgrows `limit` characters it is also written to a private file in `spill_dir`.
    """

    def __init__(self, spill_dir: Path, label: str, *, limit: int = OUTPUT_LIMIT) -> None:
        self._spill_dir = spill_dir
        self._label = label
        self._half = limit // 2
        self._limit = limit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._head = ""
        self._tail = ""
        self._length = 0
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self.received = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.received += len(data)
        self._pending += self._decoder.decode(data)
        end = self._pending.rfind("\n") + 1
        if not end and len(self._pending) > _PENDING_LIMIT:
            end = len(self._pending)  # a line without end must not grow for ever
        if end:
            self._add(plain(self._pending[:end]))
            self._pending = self._pending[end:]

    def finish(self) -> Bounded:
        """The whole text without its final newlines, or head, a line about what is missing, and tail."""
        self._add(plain(self._pending + self._decoder.decode(b"", True)))
        self._pending = ""
        if self._file is None:
            return Bounded((self._head + self._tail).rstrip("\n"))
        try:
            self._file.close()
        except OSError:
            self._path = None
        omitted = self._length - len(self._head) - len(self._tail)
        where = f"full output in {self._path}" if self._path else "the full output could not be kept"
        tail = self._tail.rstrip("\n")
        marker = f"[... {omitted} characters omitted; {where}]"
        return Bounded(f"{self._head.rstrip(chr(10))}\n{marker}\n{tail}", omitted, self._path)

    def _add(self, text: str) -> None:
        if not text:
            return
        self._length += len(text)
        if self._file is None and self._length > self._limit:
            self._start_spill()
        if self._file is not None and not self._file.closed:
            self._spill(text)
        room = self._half - len(self._head)
        if room > 0:
            self._head += text[:room]
            text = text[room:]
        keep = self._limit - self._half
        self._tail = (self._tail + text)[-keep:]

    def _start_spill(self) -> None:
        path = self._spill_dir / f"{self._label}-{secrets.token_hex(6)}.txt"
        try:
            self._spill_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError:
            self._file = Path(os.devnull).open("wb")  # noqa: SIM115 - closed in finish
            return
        self._file = os.fdopen(descriptor, "wb")
        self._path = path
        self._spill(self._head + self._tail)

    def _spill(self, text: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(text.encode("utf-8", "replace"))
        except OSError:  # a full disk must not cost the command its result
            self._path = None


def bounded(text: str, spill_dir: Path, label: str, *, limit: int = OUTPUT_LIMIT) -> Bounded:
    """`text` cleaned and cut as command output is."""
    buffer = OutputBuffer(spill_dir, label, limit=limit)
    buffer.feed(text.encode("utf-8", "surrogateescape"))
    return buffer.finish()
