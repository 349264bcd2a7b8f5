"""What can't be written to a full disk is said, with the code that the help names for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize(
    "arguments", [["--version"], ["help", "settings"], ["cache", "ls", "--json"], ["batch", "schema"]]
)
def test_output_to_a_full_disk(arguments: list[str]) -> None:
    """Also what is small enough to be written only while Python shuts down."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dsv4_agent.cli.main", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 54
    assert done.stderr.decode().splitlines() == [
        "dsv4: error: the output can't be written: No space left on device. Free some space."
    ]
