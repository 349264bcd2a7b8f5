"""Items done by processes on this machine, one each: what happens to one never happens to another."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Protocol

from dsv4_agent.batch.executor import Assignment, ItemProgress
from dsv4_agent.batch.handed_secrets import parted
from dsv4_agent.batch.job import Job, ModelChoice
from dsv4_agent.batch.states import ItemResult, State
from dsv4_agent.batch.strays import end_strays
from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.exit_codes import Ending, ExitCode, OwnSubtype
from dsv4_agent.workbench.failures import RunFailure

_LINE_LIMIT = 64 << 20
_CRASHES = 3
"""After so many deaths of its worker an item is given up."""


class Host(Protocol):
    """A model that all workers share: `choice` is how they open it, `environment` where they find it."""

    @property
    def choice(self) -> ModelChoice: ...
    @property
    def environment(self) -> Mapping[str, str]: ...
    async def start(self) -> None: ...
    async def close(self) -> None: ...


class LocalExecutor:
    """Workers are children of this process and die with it.

    With `host` they share one model, which is loaded when the first item needs it; else each opens its own.
    """

    def __init__(self, host: Host | None = None) -> None:
        self._host = host
        self._running: set[Process] = set()

    async def run(self, assignment: Assignment) -> AsyncIterator[ItemProgress | ItemResult]:
        """Do an item; a worker that dies is followed by another, which goes on where it was.

        Raises `RunFailure` where the worker has no model: then no other would have one.
        """
        item, job = assignment.item, assignment.job
        environment: Mapping[str, str] = {}
        if self._host is not None:
            await self._host.start()
            job = job.model_copy(update={"model": self._host.choice})
            environment = self._host.environment
        said = ""
        for crash in range(_CRASHES):
            await asyncio.to_thread(end_strays, job.worktree)
            fresh = crash == 0 and not assignment.resumes
            if fresh or not job.worktree.is_dir():
                await asyncio.to_thread(assignment.checkouts.worktree, assignment.name, assignment.commit)
            process, secrets = await self._start(environment)
            try:
                async for report in self._reports(process, job, secrets):
                    yield report
                    if isinstance(report, ItemResult):
                        return
                said = await _last_words(process)
            finally:
                await self._end(process)
                await asyncio.to_thread(end_strays, job.worktree)
            yield ItemProgress(item.id, f"its worker died ({said}); another goes on")
        reason = f"its worker died {_CRASHES} times: {said}"
        yield ItemResult(item.id, State.ERROR, reason)

    async def close(self) -> None:
        for process in list(self._running):
            await self._end(process)
        if self._host is not None:
            await self._host.close()

    async def _start(self, environment: Mapping[str, str]) -> tuple[Process, bytes]:
        shown, secrets = parted({**os.environ, **environment})
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "dsv4_agent.batch.worker",
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=shown,
            limit=_LINE_LIMIT,
            start_new_session=True,
        )
        self._running.add(process)
        return process, secrets

    async def _reports(
        self, process: Process, job: Job, secrets: bytes
    ) -> AsyncIterator[ItemProgress | ItemResult]:
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(job.to_line() + secrets)
            await process.stdin.drain()
            process.stdin.close()
        async for line in process.stdout:
            with suppress(ValueError, KeyError, TypeError):  # a torn last line of a dying worker
                data = json.loads(line)
                if "failure" in data:
                    ending, cause, remedy, code = data["failure"]
                    raise RunFailure(_ending(ending), cause, remedy, ExitCode(code))
                if "result" in data:
                    yield ItemResult.from_json(data["result"])
                    return
                yield ItemProgress(job.id, str(data["progress"]))

    async def _end(self, process: Process) -> None:
        """Its journals are written ahead, so nothing is lost by the hard way."""
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        self._running.discard(process)


def _ending(name: str) -> Ending:
    return Subtype(name) if name in list(Subtype) else OwnSubtype(name)


async def _last_words(process: Process) -> str:
    """Why a worker ended without a result."""
    assert process.stderr is not None
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), 10)
    try:
        text = (await asyncio.wait_for(process.stderr.read(), 2)).decode("utf-8", "replace")
    except TimeoutError:
        text = ""
    lines = [line for line in text.splitlines() if line.strip()]
    code = process.returncode
    ended = f"signal {-code}" if code is not None and code < 0 else f"exit {code}"
    return f"{ended}: {lines[-1][:200]}" if lines else ended
