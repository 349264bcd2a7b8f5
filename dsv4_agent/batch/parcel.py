"""An item's folder as bytes: its patch, journals, sessions and outputs, as they were on another machine."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path
from typing import Final

from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure

_MOST: Final = 64 << 20
"""Bytes of a folder that are carried; what commands printed may be anything."""
_FIRST: Final = ("item.jsonl", "sessions")


def packed(folder: Path) -> tuple[bytes, int]:
    """The regular files of a folder, journals and sessions first, and how many found no room."""
    files = sorted(
        (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()),
        key=lambda path: (path.relative_to(folder).parts[0] not in _FIRST, path),
    )
    buffer, left_out, room = io.BytesIO(), 0, _MOST
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in files:
            size = path.stat().st_size
            if size > room:
                left_out += 1
                continue
            room -= size
            archive.add(path, str(path.relative_to(folder)), recursive=False)
    return buffer.getvalue(), left_out


def unpack(parcel: bytes, folder: Path) -> None:
    """Make `folder` what `packed` saw; nothing is written outside of it. Raises `RunFailure` (54)."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, mode=0o700)
        with tarfile.open(fileobj=io.BytesIO(parcel), mode="r:gz") as archive:
            archive.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        cause = f"what a worker sent can't be written to {folder}: {error}"
        raise RunFailure(OwnSubtype.TOOLS, cause, "Free space.") from error
