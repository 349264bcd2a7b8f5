"""A third-party package from an index as a fresh git repository."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

_IDENTITY = ("-c", "user.name=bench", "-c", "user.email=bench@example.org")


def fetch(name: str, folder: Path) -> tuple[Path, str]:
    """Download the newest source distribution and commit its files; the repository and the version.

    Raises `SystemExit` where there is no index to be reached.
    """
    command = (sys.executable, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps")
    done = subprocess.run(
        [*command, "-d", str(folder), name], capture_output=True, text=True, timeout=600, check=False
    )
    archives = sorted(folder.glob("*.tar.gz"))
    if not archives:
        raise SystemExit(f"{name} can't be downloaded: {done.stderr.strip()[-300:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    top = next(path for path in folder.iterdir() if path.is_dir())
    for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "import")):
        subprocess.run(["git", *_IDENTITY, *arguments], cwd=top, check=True)
    return top, archives[0].name.removesuffix(".tar.gz")
