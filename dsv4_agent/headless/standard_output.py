"""The real standard output, held by one owner: no stray print and no child process can write into it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
from collections.abc import Mapping

from dsv4_agent.workbench.plain_text import json_escaped, without_surrogates


class StandardOutput:
    """Writes whole lines to what was file descriptor 1. Raises `BrokenPipeError` when the reader has gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.broken = False

    @classmethod
    def claim(cls) -> StandardOutput:
        """Take descriptor 1 and point it at stderr, so that a stray print can't spoil the answer or the JSON.
        Raises `OSError` where descriptor 1 is closed: the entry point opens missing streams first.
        """
        if sys.stdout is not None:
            sys.stdout.flush()
        kept = os.dup(1)
        os.set_inheritable(kept, False)
        with contextlib.suppress(OSError):
            os.dup2(2, 1)
        return cls(kept)

    def write(self, text: str) -> None:
        """Write all of `text` now. A full disk and the like raise `OSError`."""
        view = memoryview(without_surrogates(text).encode())
        try:
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:  # a pipe shared with a program that doesn't block, as Node's are
                    select.select((), (self._descriptor,), ())
        except OSError:
            self.broken = True
            raise

    def write_json(self, value: Mapping[str, object]) -> None:
        """One JSON object on a line."""
        self.write(json_line(value))


def json_line(value: Mapping[str, object]) -> str:
    """A JSON object as a line: UTF-8 text, lone surrogates replaced, terminal controls as escapes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return without_surrogates(json_escaped(text)) + "\n"
