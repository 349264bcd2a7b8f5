"""Text as tools see it: lines split at newlines only, encodings that survive a round trip, safe output."""

from __future__ import annotations

import codecs
import difflib
import re
from dataclasses import dataclass

from dsv4_tools.base import ToolError

LINE_LIMIT = 2_000
_DIFF_LIMIT = 4_000_000  # product of line counts up to which a real diff is made
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_UNPRINTABLE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file's text with what is needed to get exactly its bytes back."""

    text: str
    encoding: str
    errors: str
    bom: bytes = b""

    def encode(self, text: str) -> bytes:
        """The bytes of `text` in this file's encoding. Raises ToolError for characters it lacks."""
        try:
            return self.bom + text.encode(self.encoding, self.errors)
        except UnicodeEncodeError as error:
            bad = text[error.start : error.start + 1]
            raise ToolError(f"character U+{ord(bad):04X} cannot be written as {self.encoding}.") from error


def decode(data: bytes) -> Decoded:
    """Decode so that `encode` restores every byte.

    Valid UTF-8 is UTF-8. Otherwise a file whose other bytes hold no UTF-8 sequence at all is Latin-1, and one
    that mixes both keeps its stray bytes as lone surrogates.
    """
    bom = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    body = data[len(bom) :]
    try:
        return Decoded(body.decode("utf-8"), "utf-8", "strict", bom)
    except UnicodeDecodeError:
        pass
    mixed = body.decode("utf-8", "surrogateescape")
    if not bom and all(c < "\x80" or "\udc80" <= c <= "\udcff" for c in mixed):
        return Decoded(body.decode("latin-1"), "latin-1", "strict")
    return Decoded(mixed, "utf-8", "surrogateescape", bom)


def is_binary(data: bytes) -> bool:
    """Whether the bytes are no text: a NUL is what Git and ripgrep go by as well."""
    return b"\0" in data


def encode_argument(text: str, what: str) -> bytes:
    """A text argument of the model as UTF-8. Raises ToolError for lone surrogates."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ToolError(f"{what} contains a lone surrogate (U+{ord(text[error.start]):04X}).") from error


def lines_of(text: str) -> list[str]:
    """The lines without their endings. Only a newline ends a line; a final one starts no further line."""
    if not text:
        return []
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def line_count(text: str) -> int:
    """How many lines `text` has; an unended last line counts."""
    return text.count("\n") + (1 if text and not text.endswith("\n") else 0)


def cut_line(line: str, limit: int = LINE_LIMIT) -> str:
    """The line, or its beginning with a note of how much is missing."""
    if len(line) <= limit:
        return line
    return f"{line[:limit]} [... {len(line) - limit} more characters]"


def visible(text: str) -> str:
    """The text with lone surrogates, which no encoder takes, shown as U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def shown_name(path: str) -> str:
    """A file name on one line: control characters and undecodable bytes as escapes."""
    if path.isprintable():
        return path
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], path)


def plural(count: int, noun: str) -> str:
    """`1 line`, `2 lines`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def changed_lines(old: str, new: str) -> tuple[int, int]:
    """How many lines were added and removed between two texts."""
    before, after = _LINE.findall(old), _LINE.findall(new)
    start = 0
    limit = min(len(before), len(after))
    while start < limit and before[start] == after[start]:
        start += 1
    end = 0
    while end < limit - start and before[-1 - end] == after[-1 - end]:
        end += 1
    before, after = before[start : len(before) - end], after[start : len(after) - end]
    if len(before) * len(after) > _DIFF_LIMIT:
        return len(after), len(before)
    same = sum(
        block.size for block in difflib.SequenceMatcher(None, before, after, False).get_matching_blocks()
    )
    return len(after) - same, len(before) - same
