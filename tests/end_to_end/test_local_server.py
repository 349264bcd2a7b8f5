"""`dsv4 run` and a `dsv4 serve` of the same user: the warm model is used, said, and not insisted on."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="the server runs the engine")
pytest.importorskip("starlette", reason="the server needs its packages")

from tests.end_to_end.conftest import Dsv4, check_stream, wait_until

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"done": {"type": "boolean"}, "files": {"enum": [0, 1, 2]}},
        "required": ["done", "files"],
        "additionalProperties": False,
    }
)
TASK = "Rename old to fresh everywhere."


@pytest.fixture
def server(dsv4: Dsv4) -> Iterator[Dsv4]:
    """A running server of V4-Nano."""
    process = dsv4.start("serve", "--port", "0")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert b"dsv4 serves nano at http://127.0.0.1:" in line, process.stderr
    try:
        yield dsv4
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def answer(dsv4: Dsv4, *arguments: str) -> tuple[str, str, bytes]:
    """Where the model ran, what it answered, and stderr."""
    done = dsv4("run", TASK, "--json", *arguments)
    assert done.returncode == 0, done.stderr.decode()
    events = check_stream(done.stdout)
    (dsv4.repository / "a.py").write_text("def old():\n    return 1\n")
    (dsv4.repository / "b.py").write_text("from a import old\n\nprint(old())\n")
    return events[0]["model"]["backend"], events[-1]["result"], done.stderr


def test_a_running_server_is_used_and_left_alone_when_told(server: Dsv4) -> None:
    warm = answer(server)
    here = answer(server, "--no-server")
    assert (warm[0], here[0]) == ("server", "inprocess")
    assert warm[1] == here[1] == "Renamed `old` to `fresh`."
    assert b"the model is that of the running server" in warm[2]
    assert b"running server" not in here[2]
    # Who wants another way to keep states wants an engine of his own.
    assert answer(server, "--cache-format", "bf16")[0] == "inprocess"
    listed = server("serve", "--list").stdout.decode()
    assert listed.startswith("nano at http://127.0.0.1:")
    # An answer is held to a schema there, too.
    held = server("run", TASK, "--output-schema", SCHEMA, "--permission-mode", "plan")
    assert held.returncode == 0 and b"running server" in held.stderr, held.stderr.decode()
    assert type(json.loads(held.stdout)["done"]) is bool
    assert server("serve", "--stop", "--model", "other").returncode == 42
    assert server("serve", "--stop").returncode == 0
    wait_until(lambda: server("serve", "--list").stdout == b"")
    assert answer(server)[0] == "inprocess"
