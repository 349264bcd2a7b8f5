"""The one writer of standard output, on pipes as other programs leave them."""

from __future__ import annotations

import os
import threading

from dsv4_agent.headless.standard_output import StandardOutput


def test_a_pipe_that_does_not_block_gets_everything() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    text = "a" * 1_000_000
    got: list[bytes] = []

    def reader() -> None:
        with os.fdopen(read, "rb") as file:
            got.append(file.read())

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        StandardOutput(write).write(text)
    finally:
        os.close(write)
        thread.join()
    assert got == [text.encode()]
