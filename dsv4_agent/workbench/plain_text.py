"""Make foreign text harmless: what a model, a tool or a file name says must never steer the terminal.

Escaped visibly are C0 and C1 controls (so no ESC sequence survives), DEL, bidirectional controls (Trojan
Source), line and paragraph separators, the invisible tag block, and lone surrogates. Ordinary right-to-left
letters, emoji and combining marks pass. The result is for display; machine formats keep the data and escape
it in their own syntax.
"""

from __future__ import annotations

import re
from typing import Final

_DANGEROUS: Final = (
    "\x00-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    "\u2028\u2029\ufeff"
    "\U000e0000-\U000e007f"  # tags: invisible text
)
_SURROGATES: Final = "\ud800-\udfff"
_ONE_LINE: Final = re.compile(f"[{_DANGEROUS}{_SURROGATES}]")
_LINES: Final = re.compile(f"(?![\n\t])[{_DANGEROUS}{_SURROGATES}]")
_LONE: Final = re.compile(f"[{_SURROGATES}]")
_JSON: Final = re.compile(f"[{_DANGEROUS}]")


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def plain(text: str) -> str:
    """`text` with everything but line feeds and tabs escaped; CRLF counts as a line feed."""
    return _LINES.sub(_escape, text.replace("\r\n", "\n"))


def plain_line(text: str, limit: int | None = None) -> str:
    """`text` on one line, line feeds and tabs escaped too, cut to `limit` characters with an ellipsis."""
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return _ONE_LINE.sub(_escape, text)


def without_surrogates(text: str) -> str:
    """`text` that encodes as UTF-8: each lone surrogate becomes U+FFFD."""
    return _LONE.sub("\ufffd", text)


def _json_escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def json_escaped(line: str) -> str:
    r"""A JSON line with the same characters written as `\u....`: equal data, harmless when shown raw."""
    return _JSON.sub(_json_escape, line)
