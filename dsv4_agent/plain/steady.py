"""A terminal that keeps telling pastes from keys while the prompt makes room for a line."""

from __future__ import annotations

import os
import sys

from prompt_toolkit.data_structures import Size
from prompt_toolkit.output.vt100 import Vt100_Output


class SteadyOutput(Vt100_Output):
    """prompt-toolkit switches bracketed paste off with every prompt it takes down.

    A paste that came in that moment would be read as keys, and its line breaks would submit.
    """

    def disable_bracketed_paste(self) -> None:
        """Stay as it is until `release`."""

    def release(self) -> None:
        """Another program gets the terminal."""
        super().disable_bracketed_paste()
        self.flush()


def standard_output() -> SteadyOutput:
    """Standard output, never asked where the cursor is: the answer would come among the keys."""
    term = os.environ.get("TERM")
    return SteadyOutput(sys.stdout, _size, term=term, enable_bell=False, enable_cpr=False)


def _size() -> Size:
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        columns, rows = 0, 0
    return Size(rows=rows or 24, columns=columns or 80)  # a serial line knows no size and says 0
