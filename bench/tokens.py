"""DeepSeek-V4's vocabulary by table and by the `tokenizers` package: time to open it, memory, speed.

    python -m bench.tokens [--rounds 7]

Each opens it in a process of its own, in turns, and cuts the same text, this repository's sources, twice:
once with words that it has not met, once with words that it has. Medians. The ids must be the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("table", "library")


def opened_and_cut(way: str, folder: Path) -> dict[str, float | str]:
    """Seconds to import and open, seconds to cut the text for the first and the second time, MB."""
    from dsv4_model.tokenizer import find_tokenizer

    source = find_tokenizer()
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(Path("dsv4_agent").rglob("*.py")))
    memory, started = _resident(), time.perf_counter()
    if way == "table":
        from dsv4_model.bpe.table_vocabulary import TableVocabulary

        encode = TableVocabulary.from_file(source, folder).encode
    else:
        from dsv4_model.bpe.library_vocabulary import LibraryVocabulary

        encode = LibraryVocabulary.from_file(source).encode
    encode("a", True)
    times = [time.perf_counter() - started]
    memory = _resident() - memory
    ids: list[int] = []
    for _ in range(2):
        started = time.perf_counter()
        ids = encode(text, False)
        times.append(time.perf_counter() - started)
    digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
    opening, first, again = times
    return {"opening": opening, "first": first, "again": again, "memory": memory / 1e6, "ids": digest}


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


def main() -> int:
    """Print a table. The exit code is 1 if ids differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(opened_and_cut(given.one[0], Path(given.one[1]))))
        return 0
    seen: dict[str, list[dict[str, float | str]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        _one("table", folder)  # makes the table
        for _ in range(given.rounds):
            for way in WAYS:
                seen[way].append(_one(way, folder))
    for what, unit, scale in (
        ("opening", "ms", 1e3),
        ("first", "ms", 1e3),
        ("again", "ms", 1e3),
        ("memory", "MB", 1),
    ):
        ours, theirs = (statistics.median(float(run[what]) for run in seen[way]) * scale for way in WAYS)
        print(f"{what:8} {ours:8.1f} {unit}   library {theirs:8.1f} {unit}   {theirs / ours:6.1f}x")
    same = len({run["ids"] for runs in seen.values() for run in runs}) == 1
    print("the same ids" if same else "DIFFERENT IDS")
    return 0 if same else 1


def _one(way: str, folder: str) -> dict[str, float | str]:
    command = [sys.executable, "-m", "bench.tokens", "--one", way, folder]
    made: dict[str, float | str] = json.loads(subprocess.check_output(command))
    return made


if __name__ == "__main__":
    raise SystemExit(main())
