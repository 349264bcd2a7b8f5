"""The real lines that come closest to a text that was not found: a hint for the model, never a match."""

from __future__ import annotations

import difflib
import time

from dsv4_tools.text import cut_line, lines_of

_SECONDS = 0.5
_LINES = 20_000
_SHOWN = 12
_WIDTH = 200
_ALIKE = 0.5


def nearest_lines(text: str, old: str) -> str | None:
    """Up to twelve numbered lines around the best counterpart of `old`, or None when nothing is alike.

    Compares line by line and stops after half a second, so a huge file costs no more than that.
    """
    wanted = [line.strip() for line in lines_of(old)]
    anchors = sorted((i for i, line in enumerate(wanted) if line), key=lambda i: -len(wanted[i]))[:3]
    lines = lines_of(text)[:_LINES]
    deadline = time.monotonic() + _SECONDS
    best, place = _ALIKE, -1
    for anchor in anchors:
        matcher = difflib.SequenceMatcher(None, autojunk=False)
        matcher.set_seq2(wanted[anchor][:_WIDTH])
        for index, line in enumerate(lines):
            if time.monotonic() > deadline:
                break
            matcher.set_seq1(line.strip()[:_WIDTH])
            if matcher.real_quick_ratio() <= best or matcher.quick_ratio() <= best:
                continue
            if (ratio := matcher.ratio()) > best:
                best, place = ratio, max(0, index - anchor)
        if best > 0.8:
            break
    if place < 0:
        return None
    shown = lines[place : place + min(max(len(wanted), 1), _SHOWN)]
    return "\n".join(f"{number}\t{cut_line(line, _WIDTH)}" for number, line in enumerate(shown, place + 1))
