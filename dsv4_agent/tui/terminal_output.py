"""A terminal that has gone away must not keep the program from ending.

Textual's writing thread ends at the first write that fails, and the exit then waits for its full queue.
"""

from __future__ import annotations

from textual.drivers import linux_driver
from textual.drivers._writer_thread import WriterThread


class TerminalWriter(WriterThread):
    """Textual's writer, which throws away what can't be written."""

    def run(self) -> None:
        """Write until told to end; after a failed write, only wait for that."""
        try:
            super().run()
        except OSError:
            while self._queue.get() is not None:
                pass


def mend_terminal_output() -> None:
    """Have Textual's driver write through `TerminalWriter`; call it before `App.run`."""
    vars(linux_driver)["WriterThread"] = TerminalWriter
