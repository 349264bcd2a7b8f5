"""`dsv4 chat` beside a bare Textual program and the peers on PATH, each on a pseudo-terminal, in one run.

python bench/tui.py [--runs 7] [--words 2000] [--events 5000] [--characters 4000000]

Launch, key to echo, the price of a stream, memory, and a long session taken up again. The model is a script,
so none of it is a model's time. Every figure depends on the machine and on what else it does: read it beside
the bare program's of the same run.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.tui.measure import (
    IDLE_LETTERS,
    STREAM_LETTERS,
    Echo,
    echoes,
    idle_share,
    launch,
    pages,
    resident,
    settle,
    stream,
)
from bench.tui.restored import LAST, make_session
from bench.tui.words import ENDS, script
from tests.end_to_end.pty_screen import Terminal

PEERS: Final = ("vibe", "codex", "claude", "opencode", "gemini", "reasonix")
ROOT: Final = Path(__file__).resolve().parent.parent
CHAT: Final = (sys.executable, "-P", "-m", "dsv4_agent.cli.main", "chat", "--model")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `limit` is in the unit shown; `bare` is the same of the bare program."""

    what: str
    unit: str
    dsv4: float
    limit: float | None = None
    bare: float | None = None

    def __str__(self) -> str:
        digits = 2 if self.unit in ("s", "%") else 1
        bare = "" if self.bare is None else f"{self.bare:.{digits}f}"
        ratio = f"{self.dsv4 / self.bare:.2f}x" if self.bare else ""
        target = "" if self.limit is None else f"<= {self.limit:g}"
        verdict = "" if self.limit is None else "ok" if self.dsv4 <= self.limit else "MISSED"
        cells = f"{self.dsv4:>9.{digits}f} {bare:>9} {ratio:>7} {target:>9} {verdict}"
        return f"{self.what:<44} {self.unit:<4} {cells}".rstrip()


@dataclass(frozen=True, slots=True)
class Place:
    """A repository and an environment of their own for everything that is started."""

    folder: Path
    repository: Path
    env: Mapping[str, str]

    @classmethod
    def make(cls, folder: Path) -> Place:
        """A small repository, and no state or settings from outside."""
        repository = folder / "repository"
        repository.mkdir()
        (repository / "a.py").write_text("value = 1\n")
        identity = ("-c", "user.name=b", "-c", "user.email=b@example.invalid")
        for arguments in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "first")):
            subprocess.run(["git", *arguments], cwd=repository, check=True)
        foreign = ("DSV4_", "NO_COLOR", "COLUMNS", "LINES", "TEXTUAL")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        own = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "DSV4_CONFIG_DIR": str(folder / "config")}
        return cls(folder, repository, kept | own)

    def script(self, name: str, text: str) -> str:
        """A value for --model."""
        path = self.folder / name
        path.write_text(text)
        return f"scripted:{path}"

    def start(self, *command: str, state: str = "state") -> Terminal:
        """Start a program on a terminal that is not drawn, for drawing costs time."""
        env = dict(self.env) | {"DSV4_STATE_DIR": str(self.folder / state)}
        return Terminal(command, env=env, cwd=self.repository, draw=False, echo=False)


def launches(start: Callable[[], Terminal], runs: int) -> tuple[float, float] | None:
    """Best and median seconds to a composer that takes keys."""
    times = [took for _ in range(runs) if (took := launch(start)) is not None]
    return (min(times), statistics.median(times)) if times else None


def live(start: Callable[[], Terminal], begin: bytes, words: int) -> dict[str, float]:
    """Figures of one program: memory, echo while idle, two streams, the second with typing."""
    with start() as terminal:
        settle(terminal)
        figures = {"rss": resident(terminal.process.pid) / 1e6, "idle": idle_share(terminal) * 100}
        figures |= _echo("idle", Echo.of(list(echoes(terminal, IDLE_LETTERS))))
        settle(terminal)
        quiet = stream(terminal, begin, words, ENDS[0].encode())
        settle(terminal)
        typed = stream(terminal, begin, words, ENDS[1].encode(), STREAM_LETTERS)
        assert typed.echo is not None
        figures |= _echo("streaming", typed.echo)
        figures |= {"cpu": quiet.cpu_per_100_words * 1e3, "rate": quiet.words_per_second}
        return figures


def _echo(name: str, echo: Echo) -> dict[str, float]:
    return {f"{name} median": echo.median * 1e3, f"{name} p95": echo.p95 * 1e3}


def restored(place: Place, model: str, events: int, characters: int) -> tuple[int, dict[str, float]]:
    """A long session, taken up again: size of its journal, and the figures."""
    env = dict(place.env) | {"DSV4_STATE_DIR": str(place.folder / "long")}
    size = make_session(place.repository, env, model, events, characters)
    with place.start(*CHAT, model, "--resume", "last", state="long") as terminal:
        terminal.until(lambda: LAST.encode() in terminal.output, "the end of the session")
        painted = time.perf_counter() - terminal.started
        settle(terminal)
        figures = {"painted": painted, "rss": resident(terminal.process.pid) / 1e6}
        figures["idle"] = idle_share(terminal) * 100
        turned = pages(terminal, 30)
        return size, figures | {"page": turned.median * 1e3, "worst": turned.worst * 1e3}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("runs", 7), ("words", 2_000), ("events", 5_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--characters", type=int, default=4_000_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(Place.make(Path(folder)), asked)


def report(place: Place, asked: argparse.Namespace) -> None:
    """Measure and print."""
    model = place.script("stream.txt", script(asked.words))
    chat = functools.partial(place.start, *CHAT, model)
    bare = functools.partial(place.start, sys.executable, "-m", "bench.tui.bare", str(asked.words))
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; Python {sys.version.split()[0]}")
    print(f"{'':<44} {'':<4} {'dsv4':>9} {'bare':>9} {'ratio':>7} {'target':>9}")
    ours, theirs = launches(chat, asked.runs), launches(bare, asked.runs)
    assert ours is not None and theirs is not None
    print(Row("launch to a composer that takes keys, best", "s", ours[0], 0.6, theirs[0]))
    print(Row("  the same, median", "s", ours[1], None, theirs[1]))
    dsv4 = live(chat, b"go\r", asked.words)
    base = live(bare, b"\x13", asked.words)
    for what, name, unit, limit in (
        ("key to echo, idle, median", "idle median", "ms", 12),
        ("  p95", "idle p95", "ms", None),
        ("key to echo, streaming, median", "streaming median", "ms", 30),
        ("  p95", "streaming p95", "ms", 60),
        ("CPU time a 100 streamed words", "cpu", "ms", 200),
        ("words a second (200 were asked for)", "rate", "/s", None),
        ("memory, idle", "rss", "MB", 90),
        ("CPU, idle", "idle", "%", 2),
    ):
        print(Row(what, unit, dsv4[name], limit, base[name]))
    size, long = restored(place, place.script("one.txt", "text: Hello.\n"), asked.events, asked.characters)
    print(
        f"a session of {asked.events:,} events, {asked.characters:,} characters, {size / 1e6:.1f} MB on disk:"
    )
    for what, name, unit, limit in (
        ("launch to the restored end on the screen", "painted", "s", 1.0),
        ("memory", "rss", "MB", 300),
        ("PageUp to another picture, median", "page", "ms", None),
        ("  worst", "worst", "ms", None),
        ("CPU, idle", "idle", "%", 2),
    ):
        print(Row(what, unit, long[name], limit))
    for peer in PEERS:
        if path := shutil.which(peer):
            found = launches(functools.partial(place.start, path), asked.runs)
            said = (
                "takes no keys (a login screen?)"
                if found is None
                else f"{found[0]:.2f} s, median {found[1]:.2f}"
            )
            print(f"{peer}: launch {said}")
    missing = [peer for peer in PEERS if not shutil.which(peer)]
    print(f"not on PATH, not measured: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
