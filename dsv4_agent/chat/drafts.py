"""What the user has written but not sent, kept so that a crash does not take it away. Nothing here raises."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dsv4_agent.session.session import state_directory
from dsv4_agent.workbench.plain_text import without_surrogates
from dsv4_agent.workbench.private_file import write_private

SAVE_SECONDS: Final = 1.0
"""A front end saves at most this often while the user types, and once more when typing has paused."""

_LIMIT: Final = 16_000_000


@dataclass(frozen=True, slots=True)
class Draft:
    """Unsent text. `pastes` holds what stands behind each chip in it, by the chip's text.

    `pasted_start` says that its first character was pasted, so that it must not count as a command.
    """

    text: str
    pastes: Mapping[str, str] = field(default_factory=dict)
    pasted_start: bool = False


class DraftStore:
    """The draft of one workspace on disk."""

    def __init__(self, workspace: Path, *, folder: Path | None = None) -> None:
        self._workspace = os.path.realpath(workspace)
        key = hashlib.sha256(os.fsencode(self._workspace)).hexdigest()[:32]
        self._path = (state_directory() / "drafts" if folder is None else folder) / f"{key}.json"
        self.warning: str | None = None

    def load(self) -> Draft | None:
        """The draft that was left behind, if there is one that can be read."""
        try:
            with self._path.open("rb") as file:
                record = json.loads(file.read(_LIMIT))
        except (OSError, ValueError, RecursionError):
            return None
        match record:
            case {"text": str(text), "pastes": dict(pastes), "pasted_start": bool(pasted_start)}:
                kept = {k: without_surrogates(v) for k, v in pastes.items() if isinstance(v, str)}
                return Draft(without_surrogates(text), kept, pasted_start) if text.strip() else None
        return None

    def save(self, draft: Draft) -> None:
        """Replace the kept draft in one step; a blank one is removed."""
        if not draft.text.strip():
            self.clear()
            return
        record = {
            "workspace": without_surrogates(self._workspace),
            "text": without_surrogates(draft.text),
            "pastes": dict(draft.pastes),
            "pasted_start": draft.pasted_start,
        }
        try:
            # Not flushed to the disk: this guards against a crash of the program, and typing must not wait.
            write_private(self._path, json.dumps(record), durable=False)
        except OSError as error:
            self.warning = f"The draft can't be kept: {error.strerror or error} ({self._path})."

    def clear(self) -> None:
        """Forget the draft: it was sent or thrown away."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self.warning = f"The old draft can't be removed: {error.strerror or error} ({self._path})."
