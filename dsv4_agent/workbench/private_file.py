"""Small private files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_private(path: Path, data: str | bytes, *, durable: bool = True) -> None:
    """Replace `path` (mode 0600, folder 0700) by a file that is complete before it has the name.

    `durable` waits for the disk, which a power cut needs and a crash of the program does not. Raises
    `OSError`; the old file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
