"""The rename task through `dsv4 run` and a server: what came of it, and every token that was sampled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.harness.measure import make_repository
from bench.interop.served import Served
from dsv4_agent.session.session import replay
from dsv4_agent.session.transcript import Transcript

PROMPT = "Rename total_price to final_cost everywhere."
_BASKET = """\
def add_tax(price):
    return price + 19


def total_price(price):
    return add_tax(price) * 3
"""
_COUNTER = """\
from basket import total_price


def receipt(price):
    return [total_price(price)]
"""
_TEST = """\
import unittest

from basket import total_price


class ShopTest(unittest.TestCase):
    def test_shop(self):
        self.assertEqual(total_price(5), 72)
"""
FILES = {"basket.py": _BASKET, "counter.py": _COUNTER, "test_basket.py": _TEST}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left.

    Attributes:
        renamed: every file is as it should be.
        turns: the sampled turns, special tokens spelt out.
        ids: their ids, where the server or our own tokenizer told them.
    """

    exit_code: int
    renamed: bool
    turns: tuple[str, ...]
    ids: tuple[tuple[int, ...] | None, ...]
    errors: str


def do_task(served: Served, folder: Path, protocol: str, tokenizer: str | None = "nano") -> Outcome:
    """Make the repository anew, always in the same place, and let the agent work in it."""
    work, state = folder / "shop", folder / "state"
    for place in (work, state):
        shutil.rmtree(place, ignore_errors=True)
    make_repository(work, FILES)
    own = {
        "DSV4_CONFIG_DIR": str(folder / "config"),
        "DSV4_STATE_DIR": str(state),
        "DSV4_BASE_URL": f"{served.url}/v1",
        "DSV4_SERVER_PROTOCOL": protocol,
        "DSV4_SERVER_PRESET": "nano",
        **({"DSV4_SERVER_TOKENIZER": tokenizer} if tokenizer and protocol == "tokens" else {}),
        **({"DSV4_API_KEY": served.key} if served.key else {}),
    }
    program = str(Path(sys.executable).with_name("dsv4"))
    allowed = ("--allowed-tools", "shell(python3 -m unittest*)")
    options = ("--model", "server", "--temperature", "0", "--session-id", "rename", "--max-turns", "20")
    done = subprocess.run(
        [program, "run", PROMPT, *options, *allowed],
        cwd=work,
        env=_environment() | own,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    wanted = {name: text.replace("total_price", "final_cost") for name, text in FILES.items()}
    renamed = all((work / name).read_text(encoding="utf-8") == text for name, text in wanted.items())
    transcript = transcript_in(folder)
    entries = [] if transcript is None else [entry for entry in transcript.entries if entry.sampled]
    turns = tuple(entry.text for entry in entries)
    ids = tuple(entry.ids for entry in entries)
    return Outcome(done.returncode, renamed, turns, ids, done.stderr)


def transcript_in(folder: Path) -> Transcript | None:
    """The conversation of the last run in a folder; None where it didn't begin."""
    journal = folder / "state" / "sessions" / "rename" / "journal.jsonl"
    return replay(journal).transcript if journal.exists() else None


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DSV4_SERVER"))}
