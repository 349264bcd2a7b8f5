"""A repository's first snapshot, taken while the model is opened: both mostly wait for others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dsv4_agent.workbench.git_state import Repository


class BegunRepository:
    """Begins at once, in a thread of its own. Nothing may change the work tree before it is `ready`."""

    def __init__(self, directory: Path) -> None:
        thread = ThreadPoolExecutor(1, thread_name_prefix="dsv4-snapshot")
        self._begun = thread.submit(Repository, directory)
        thread.shutdown(wait=False)

    def ready(self) -> Repository:
        """The repository, its snapshot taken. Raises as `Repository` does."""
        return self._begun.result()

    def close(self) -> None:
        """Remove what the snapshot has left, whatever came of it."""
        if self._begun.exception() is None:
            self._begun.result().close()
