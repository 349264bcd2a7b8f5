"""Other people's agents as guests of `dsv4 serve`: do their requests, its answers and their tools fit?"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.harness.agents import KEY, Agent, Place
from bench.harness.measure import bare_environment, make_repository
from bench.interop.peers import own_server
from bench.interop.rename import FILES
from bench.interop.served import Served

_COMMAND = "sed -i s/total_price/final_cost/g *.py"
_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Visit:
    """What an agent did. `renamed`: its own tool has done the scripted work in the repository."""

    exit_code: int | None
    renamed: bool
    last_words: str


def script_for(agent: Agent, folder: Path) -> Path:
    """The model's part: a call of the agent's own shell tool, then a word; more words for titles and such."""
    arguments = "".join(
        f"  {name}: {json.dumps(value)}\n" for name, value in agent.arguments(_COMMAND).items()
    )
    file = folder / "script.txt"
    text = f"think: I rename it.\ncall: {agent.tool}\n{arguments}---\ntext: It is renamed.\n"
    file.write_text(text + "---\ntext: It is renamed.\n" * 5, encoding="utf-8")
    return file


@contextmanager
def host(folder: Path, model: str) -> Iterator[Served]:
    """`dsv4 serve` with the key that the agents' settings name."""
    with own_server(folder, model, key=KEY) as served:
        yield served


def visit(agent: Agent, served: Served, folder: Path) -> Visit:
    """Let the agent do the task with the server as its model."""
    home, work = folder / f"{agent.program}-home", folder / f"{agent.program}-work"
    home.mkdir()
    make_repository(work, FILES)
    launch = agent.launch(Place(served.url, home, work))
    try:
        done = subprocess.run(
            launch.command,
            cwd=work,
            env=bare_environment(home) | dict(launch.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
        code, said = done.returncode, f"{done.stderr}\n{done.stdout}"
    except subprocess.TimeoutExpired as error:
        code, said = None, str(error.stdout or "")
    texts = [(work / name).read_text(encoding="utf-8") for name in FILES]
    renamed = all("total_price" not in text and "final_cost" in text for text in texts)
    words = [line.strip() for line in said.splitlines() if line.strip()]
    return Visit(code, renamed, words[-1].replace(str(folder), "")[:160] if words else "")
