"""A llama-server process on the loopback interface, for comparisons: started, asked, ended."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

START_SECONDS = 120
END_SECONDS = 5


class LlamaServerError(Exception):
    """The server didn't start or didn't answer; ends with the last lines of its log."""


class LlamaServer:
    """One server process over one GGUF file; use it as a context manager, so that it never outlives its use.

    Caches are fp32 and flash attention is off, as in this project's own arithmetic; one slot.

    Args:
        binary: path of ``llama-server``.
        model: GGUF file.
        context: tokens of the slot.
        threads: CPU threads; more than there are free cores makes it very slow (it spins).
    """

    def __init__(self, binary: str | Path, model: Path, *, context: int = 8192, threads: int = 1) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        port = _free_port()
        command = [
            str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-c", str(context),
            "-np", "1", "-t", str(threads), "-tb", str(threads), "-ctk", "f32", "-ctv", "f32", "-fa", "off",
            "--no-warmup", "--jinja",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, trust_env=False)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON answer of one request. Raises `LlamaServerError`."""
        try:
            response = self._client.post(path, json=body)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise LlamaServerError(f"{path}: {error}\n{self.log()}") from error
        answer: dict[str, Any] = response.json()
        return answer

    def complete(
        self, ids: Sequence[int], count: int, *, top: int = 0, reuse: bool = False
    ) -> dict[str, Any]:
        """Greedy continuation of token ids; with ``top``, log-probabilities of the best tokens at each step.

        ``reuse`` keeps the KV state of the common prefix with the request before.
        """
        body = {
            "prompt": list(ids), "n_predict": count, "temperature": -1, "n_probs": top, "cache_prompt": reuse,
            "ignore_eos": True, "return_tokens": True, "stop": [], "samplers": ["temperature"],
        }  # fmt: skip
        return self.post("/completion", body)

    def tokenize(self, text: str, *, structure: bool) -> list[int]:
        """Ids of a text; ``structure`` recognises special tokens."""
        answer = self.post("/tokenize", {"content": text, "add_special": False, "parse_special": structure})
        return list(answer["tokens"])

    def log(self, lines: int = 12) -> str:
        """The last lines of its output."""
        self._log.seek(0)
        return "\n".join(self._log.read().decode("utf-8", "replace").splitlines()[-lines:])

    def close(self) -> None:
        """End the process and wait for it."""
        self._client.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise LlamaServerError(f"it ended with status {self._process.returncode}\n{self.log()}")
            try:
                if self._client.get("/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise LlamaServerError(f"it didn't start within {START_SECONDS} s\n{self.log()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
