"""One model for all workers: a `dsv4 serve` of the batch's own, so that what items share is computed once.

The engine keeps the common beginning of all conversations (system prompt, tools, instructions) and forks it
for each item; workers are its clients over loopback with a token that nobody else has.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from dsv4_agent.batch.handed_secrets import parted
from dsv4_agent.batch.job import ModelChoice
from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import NANO

_READY: Final = re.compile(r"(http://\S+/v1)\s*$")
_ENVIRONMENT_PROFILE: Final = "server"
_LOAD_SECONDS: Final = 1_800.0
"""A large checkpoint takes its time."""


def can_host(name: str) -> bool:
    """Whether a model is one that runs here and the server's packages are installed."""
    is_here = name == NANO or Path(name).is_dir()
    return is_here and all(find_spec(package) is not None for package in ("starlette", "uvicorn"))


class ModelHost:
    """A server process for one batch. `start` it, give workers `choice` and `environment`, `close` it."""

    def __init__(self, choice: ModelChoice, sequences: int) -> None:
        self._given = choice
        self._sequences = sequences
        self._process: Process | None = None
        self._starting = asyncio.Lock()
        self._url = ""
        self._token = secrets.token_urlsafe(32)

    @property
    def choice(self) -> ModelChoice:
        """The model as workers open it."""
        return self._given.model_copy(update={"name": _ENVIRONMENT_PROFILE})

    @property
    def environment(self) -> Mapping[str, str]:
        """What workers need to find it."""
        name = self._given.name
        own_tokenizer = name != NANO and (Path(name) / "tokenizer.json").is_file()
        tokenizer = name if name == NANO or own_tokenizer else "deepseek-v4"
        return {
            "DSV4_BASE_URL": self._url,
            "DSV4_API_KEY": self._token,
            "DSV4_SERVER_PROTOCOL": "tokens",
            "DSV4_SERVER_TOKENIZER": str(Path(tokenizer).resolve()) if own_tokenizer else tokenizer,
            "NO_PROXY": "127.0.0.1",
        }

    async def start(self) -> None:
        """Load the model, unless it is there. Raises `RunFailure` with the server's own words."""
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                await self._start()

    async def _start(self) -> None:
        arguments = (self._given.name, str(self._sequences))
        shown, _ = parted(os.environ)  # a model of this machine needs nobody's keys
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "dsv4_agent.batch.served_model",
            *arguments,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=shown,
            start_new_session=True,
        )
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(self._token.encode("ascii") + b"\n")
        process.stdin.close()
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                while line := (await process.stdout.readline()).decode("utf-8", "replace"):
                    if found := _READY.search(line):
                        self._url = found[1]
                        return
        except TimeoutError:
            await self.close()
            cause = f"the model {self._given.name} did not load within {_LOAD_SECONDS:g} s"
            raise RunFailure(Subtype.MODEL, cause, "Try dsv4 serve with it.") from None
        said = (await process.stderr.read()).decode("utf-8", "replace").strip().splitlines()
        code = await process.wait()
        last = said[-1].removeprefix("dsv4: error: ") if said else f"its server ended with exit code {code}"
        subtype = Subtype.CONFIG if code == 52 else Subtype.MODEL
        raise RunFailure(subtype, last)

    async def close(self) -> None:
        """End the server; safe to call twice."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 15)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
