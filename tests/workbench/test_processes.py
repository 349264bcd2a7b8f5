from __future__ import annotations

import subprocess
import sys
import time

import pytest

from dsv4_agent.workbench.processes import descendants

PROGRAM = """
import subprocess, time
from dsv4_agent.workbench.processes import adopt_orphans, descendants, kill_descendants
adopt_orphans()
stubborn = "trap : TERM; while :; do sleep 0.1; done"
subprocess.run(["bash", "-c", f"setsid bash -c '{stubborn}' >/dev/null 2>&1 & sleep 0.2"])
before = len(descendants())
kill_descendants(grace=0.3)
print(before >= 1, len(descendants()))
"""


def test_children_are_found_with_their_group() -> None:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert descendants()[child.pid] == child.pid
    finally:
        child.kill()
        child.wait()
    assert child.pid not in descendants()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux hands orphans over")
def test_a_stubborn_orphan_in_its_own_session_is_killed() -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == ["True", "0"]
    assert time.monotonic() - started < 20
