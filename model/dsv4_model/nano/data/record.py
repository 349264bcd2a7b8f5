"""Record training episodes: the real loop with the real tools, driven by each task's oracle.

    python -m dsv4_model.nano.data.record --out RUNS/data --tokenizer FOLDER [--episodes 6000] [--first 0]

Every episode is checked like an evaluation before it is kept. Shards appear one by one, so that training may
start before recording ends.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from dsv4_agent.backends.base import Conversation, ModelError
from dsv4_agent.backends.text import TextTurnBackend
from dsv4_agent.dsml.dialect import Dialect, tags_of
from dsv4_agent.dsml.segments import Segment, SegmentBuilder
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.events import RunResult
from dsv4_agent.loop.preset import nano_preset
from dsv4_agent.permissions.decision import PermissionMode, Policy, SandboxMode
from dsv4_agent.session.session import Session
from dsv4_model.nano.data.families import draw
from dsv4_model.nano.data.names import Split
from dsv4_model.nano.data.task import Oracle, Outcome, Step, Task, Unsuitable
from dsv4_model.nano.data.workspace import interpreter_with_hints, materialised
from dsv4_model.nano.examples import Examples
from dsv4_model.tokenizer import Tokenizer

Episode = list[tuple[int, bool]]


def turn_text(step: Step) -> list[Segment]:
    """A step in the wire format, values marked as content."""
    tags = tags_of(Dialect.V4)
    out = SegmentBuilder()
    out.structure(f"{step.think}</think>{step.text}")
    if step.calls:
        out.structure(f"\n\n<{tags.calls}>\n")
        for call in step.calls:
            out.structure(f'<{tags.invoke} name="{call.name}">\n')
            for i, (key, value) in enumerate(call.arguments.items()):
                kind, text = ("true", value) if isinstance(value, str) else ("false", str(value).lower())
                line = "\n" if i else ""
                out.structure(f'{line}<{tags.parameter} name="{key}" string="{kind}">')
                out.content(text)
                out.structure(f"</{tags.parameter}>")
            out.structure(f"\n</{tags.invoke}>\n")
        out.structure(f"</{tags.calls}>")
    return out.segments()


class OracleBackend(TextTurnBackend):
    """A model that always knows what to do: it plays a task's oracle."""

    def __init__(self, oracle: Oracle, tokenizer: Tokenizer) -> None:
        super().__init__(id="oracle", encode=tokenizer.encode_segments, vocabulary=tokenizer)
        self._oracle = oracle
        self._started = False

    def next_turn(self, conversation: Conversation) -> Sequence[Segment]:
        try:
            if not self._started:
                self._started = True
                return turn_text(next(self._oracle))
            return turn_text(self._oracle.send(list(conversation.last_results())))
        except (Unsuitable, StopIteration) as error:
            raise ModelError(f"the oracle gave up: {error!r}") from error


async def record(task: Task, seed: int, tokenizer: Tokenizer) -> tuple[list[int], Episode] | None:
    """`(prefix ids, episode)`, or None where the oracle could not solve the task."""
    with materialised(task, seed) as (root, head):
        session = Session.create(ephemeral=True, durable=False)
        try:
            backend = OracleBackend(task.oracle(), tokenizer)
            policy = Policy(root, mode=PermissionMode.AUTO, sandbox=SandboxMode.OFF)
            agent = make_agent(root, backend, nano_preset(), policy=policy, session=session)
            result: RunResult | None = None
            async for event in agent.run(task.prompt):
                if isinstance(event, RunResult):
                    result = event
            assert result is not None
            outcome = Outcome(root, result.result, result.exit_code, head)
            if result.is_error or not task.check(outcome):
                return None
            spans = session.transcript.training_spans()
        finally:
            session.close()
    prefix, *rest = spans
    return prefix[0], [(i, sampled) for ids, sampled in rest for i in ids]


def shards(first: int, episodes: int, size: int) -> Iterator[range]:
    """Seeds of each shard."""
    for low in range(first, first + episodes, size):
        yield range(low, min(low + size, first + episodes))


def main() -> None:
    """Command line of the recorder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--episodes", type=int, default=6000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--shard", type=int, default=500)
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(options.tokenizer / "tokenizer.json")
    for seeds in shards(options.first, options.episodes, options.shard):
        path = options.out / f"shard-{seeds.start:06d}.npz"
        if path.exists():
            continue
        started = time.monotonic()
        kept: list[Episode] = []
        prefix: list[int] = []
        lost: Counter[str] = Counter()
        for seed in seeds:
            task = draw(seed, Split.TRAIN)
            # Both kinds of interpreter are met in use: those before 3.12 print no hints.
            with interpreter_with_hints() if seed % 5 < 2 else nullcontext():
                recorded = asyncio.run(record(task, seed, tokenizer))
            if recorded is None:
                lost[task.family] += 1
                continue
            prefix = recorded[0]
            kept.append(recorded[1])
        Examples.pack(prefix, kept).save(path)
        tokens = sum(map(len, kept)) / len(kept)
        print(
            f"{path.name}: {len(kept)} episodes, {tokens:.0f} tokens each, prefix {len(prefix)}, "
            f"left out {dict(lost)}, {time.monotonic() - started:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
