"""Decode some tokens in a process with a limit on its memory; a report in JSON goes to standard output.

python -m tests.model.flash_decode FOLDER LOGITS.pt [--budget BYTES] [--limit BYTES] [--torch]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

PROMPT = [7, 9, 30, 44, 60, 100, 101, 102, 103, 250, 12, 13, 14, 15, 16, 17]
DECODED = 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("logits", type=Path)
    parser.add_argument("--budget", type=int, help="bytes of routed experts")
    parser.add_argument("--limit", type=int, help="bytes of private writable memory, enforced by the kernel")
    parser.add_argument("--torch", action="store_true", help="the PyTorch back end")
    chosen = parser.parse_args()
    if chosen.limit is not None:  # before anything large is imported
        resource.setrlimit(resource.RLIMIT_DATA, (chosen.limit, chosen.limit))

    import torch

    from dsv4_model.engine import Engine, EngineOptions
    from dsv4_model.expert_source import LayerExperts
    from dsv4_model.passes import Piece, Rows

    start = status()
    began = time.monotonic()
    options = EngineOptions(threads=1, native=False if chosen.torch else None, memory_budget=chosen.budget)
    engine = Engine.load(chosen.folder, options=options)
    cache = engine.new_cache()
    loaded = time.monotonic()
    ids, rows = PROMPT, []
    for step in range(1 + DECODED):
        cache.prepare(len(ids))
        logits, _ = engine.forward([Piece(cache, ids, Rows.ALL)])
        rows.append(logits)
        if step == 0:
            prefilled = time.monotonic()
        ids = [int(logits[-1].argmax())]
    ended = time.monotonic()
    torch.save(torch.cat(rows), chosen.logits)
    experts = engine.weights.layers[0].experts
    store = experts.store if isinstance(experts, LayerExperts) else None
    report = {
        "back_end": type(engine.passes).__name__,
        "at_start": start,
        "at_end": status(),
        "slots": store.nbytes if store else None,
        "hits": store.statistics.hits if store else None,
        "awaited": store.statistics.awaited if store else None,
        "misses": store.statistics.misses if store else None,
        "bytes_read": store.statistics.bytes_read if store else None,
        "waited_s": store.statistics.waited_s if store else None,
        "load_s": loaded - began,
        "prefill_s": prefilled - loaded,
        "decode_s": (ended - prefilled) / DECODED,
    }
    print(json.dumps(report))


def status() -> dict[str, int]:
    """Bytes: peak of all resident pages, resident anonymous pages, private writable memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return {name: 1024 * int(fields[name].split()[0]) for name in ("VmHWM", "RssAnon", "VmData")}


if __name__ == "__main__":
    main()
