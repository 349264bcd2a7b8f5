"""One run of one agent: started as a user would, against a server that plays a script."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from bench.harness.agents import Agent, Place
from bench.harness.extension import extensions, shared_bytes
from bench.harness.process_tree import resident_bytes
from bench.harness.server import ScriptedServer, serving

_LOOK_EVERY = 0.05
"""Seconds between two looks at the memory."""
_EDGE = 20
"""Gaps whose median stands for the beginning, and for the end."""


class RunFailedError(Exception):
    """An agent that didn't do its turns; the message has the end of what it wrote."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run showed. Times in seconds, sizes in bytes.

    Attributes:
        start: from the start of the process until its first request was there.
        early, late: medians of the gaps at the beginning and at the end; a gap is from the end of an answer,
            which holds one call, until the next request was there.
        extended: requests that were exact extensions of the one before, of so many that could be.
        processor: CPU seconds of the agent and all that it has started, which a busy machine changes little.
        shared: the least share of a body's bytes with which the next one began.
    """

    turns: int
    start: float
    early: float
    late: float
    first_request: int
    last_request: int
    peak_memory: int
    processor: float
    extended: tuple[int, int]
    shared: float
    aside: int


def encoder(tokenizer: str) -> Callable[[str], list[int]]:
    """Text with structure to ids."""
    from dsv4_model.tokenizer import Tokenizer

    made = Tokenizer.deepseek_v4() if tokenizer == "deepseek-v4" else Tokenizer.from_file(tokenizer)
    return lambda text: made.encode(text, structure=True)


def measure(agent: Agent, turns: int, seconds: float = 600) -> Figures:
    """Let the agent do so many turns. Raises `RunFailedError`.

    It has done one task in its home before: what a program prepares at its first start isn't counted.
    """
    with TemporaryDirectory(prefix="harness-") as folder:
        workspace, home = Path(folder, "work"), Path(folder, "home")
        home.mkdir()
        make_repository(workspace, {"README.md": "A small repository.\n"})
        asyncio.run(_measure(agent, 1, home, workspace, seconds))
        return asyncio.run(_measure(agent, turns, home, workspace, seconds))


async def _measure(agent: Agent, turns: int, home: Path, workspace: Path, seconds: float) -> Figures:
    encode = None if agent.tokens is None else encoder(agent.tokens)
    server = ScriptedServer(turns, agent.tool, agent.arguments, encode, served_by=agent.served_by)
    async with serving(server):
        launch = agent.launch(Place(server.url, home, workspace))
        with (home / "output.txt").open("wb") as output:
            spent, begun = _processor_seconds(), perf_counter()
            process = await asyncio.create_subprocess_exec(
                *launch.command,
                cwd=workspace,
                env=bare_environment(home) | dict(launch.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            peak = await _watched(process, seconds)
    if len(server.arrivals) <= turns:
        written = (home / "output.txt").read_text(encoding="utf-8", errors="replace")[-1500:]
        raise RunFailedError(f"{agent.name}: {len(server.arrivals)} of {turns + 1} requests\n{written}")
    return _figures(server, begun, peak, _processor_seconds() - spent)


async def _watched(process: asyncio.subprocess.Process, seconds: float) -> int:
    """Wait for the end; the most memory that was seen."""
    peak = 0
    try:
        async with asyncio.timeout(seconds):
            ended = asyncio.create_task(process.wait())
            while not ended.done():
                peak = max(peak, resident_bytes(process.pid))
                await asyncio.wait({ended}, timeout=_LOOK_EVERY)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return peak


def _figures(server: ScriptedServer, begun: float, peak: int, processor: float) -> Figures:
    arrivals = server.arrivals[: server.turns + 1]
    gaps = [after.arrived - before.answered for before, after in pairwise(arrivals)]
    bodies = [arrival.body for arrival in arrivals]
    # The first gap is left out: what is loaded at the first call belongs to no other turn.
    return Figures(
        turns=server.turns,
        start=arrivals[0].arrived - begun,
        early=median(gaps[1 : 1 + _EDGE] or gaps),
        late=median(gaps[-_EDGE:]),
        first_request=len(bodies[0]),
        last_request=len(bodies[-1]),
        peak_memory=peak,
        processor=processor,
        extended=extensions(bodies),
        shared=min(shared_bytes(a, b) for a, b in pairwise(bodies)),
        aside=server.aside,
    )


def _processor_seconds() -> float:
    """What children that have ended, and theirs, have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bare_environment(home: Path) -> dict[str, str]:
    """What an agent is told of the machine."""
    kept = {
        name: os.environ[name] for name in ("PATH", "LANG", "TERM", "PYENV_VERSION") if name in os.environ
    }
    return kept | {"HOME": str(home), "NO_COLOR": "1"}


def make_repository(folder: Path, files: Mapping[str, str]) -> None:
    """A repository with one commit."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    _git(folder, "init", "--quiet")
    _git(folder, "add", ".")
    _git(folder, "commit", "--quiet", "--message", "begin")


def _git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@example.invalid")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)
