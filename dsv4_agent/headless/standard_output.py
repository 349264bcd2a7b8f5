"""The real standard output, held by one owner: no stray print and no child process can write into it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping

from dsv4_agent.headless.plain_text import json_escaped, without_surrogates


class StandardOutput:
    """Writes whole lines to what was file descriptor 1. Raises `BrokenPipeError` when the reader has gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def claim(cls) -> StandardOutput:
        """Take descriptor 1 and point it at stderr, so that a stray print can't spoil the answer or the JSON.

        With stdout closed from the start everything goes to the null device.
        """
        try:
            sys.stdout.flush()
            kept = os.dup(1)
        except (OSError, AttributeError, ValueError):
            return cls(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
        os.set_inheritable(kept, False)
        with contextlib.suppress(OSError):
            os.dup2(2, 1)
        return cls(kept)

    def write(self, text: str) -> None:
        """Write all of `text` now. A full disk and the like raise `OSError`."""
        view = memoryview(without_surrogates(text).encode())
        while view:
            view = view[os.write(self._descriptor, view) :]

    def write_json(self, value: Mapping[str, object]) -> None:
        """One JSON object on a line."""
        self.write(json_line(value))


def json_line(value: Mapping[str, object]) -> str:
    """A JSON object as a line: UTF-8 text, lone surrogates replaced, terminal controls as escapes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return without_surrogates(json_escaped(text)) + "\n"
