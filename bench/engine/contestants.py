"""The engines under comparison, behind one small interface: take in tokens, decode, answer a tool result."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from bench.engine.llama_server import LlamaServer
from bench.engine.models import Subject
from dsv4_model.engine import Engine, Sequence
from dsv4_model.sampling import SamplingParams

CHUNK = 512
"""Tokens a pass of transformers; its attention mask is quadratic in this."""


class Contestant(Protocol):
    """One engine with one context that only grows, but for `restart` and `answer`."""

    name: str

    def restart(self) -> None:
        """Forget the context."""
        ...

    def extend(self, ids: list[int]) -> float:
        """Seconds to take in ``ids`` after what is held."""
        ...

    def decode(self, count: int) -> float:
        """Seconds for ``count`` greedy tokens, which become part of the context."""
        ...

    def answer(self, ids: list[int]) -> float:
        """Seconds from ``ids`` appended to a warm context to the first token; the context stays as it was."""
        ...


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Ours:
    """This project, through its public engine."""

    name = "dsv4"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sequence: Sequence = engine.sequence()

    def fork(self) -> Ours:
        """The same engine going on independently from the same context."""
        twin = Ours(self.engine)
        twin.sequence = self.sequence.fork()
        return twin

    def restart(self) -> None:
        self.sequence = self.engine.sequence()

    def extend(self, ids: list[int]) -> float:
        tokens = [*self.sequence.tokens, *ids]
        return timed(lambda: self.sequence.sync(tokens))

    def decode(self, count: int) -> float:
        params = SamplingParams(temperature=0.0, max_tokens=count, stop_ids=())
        produced: list[int] = []
        seconds = timed(lambda: produced.extend(self.sequence.generate(params)))
        # An end-of-sequence token stops a generation; what was produced counts.
        return seconds * count / max(1, len(produced))

    def answer(self, ids: list[int]) -> float:
        twin = self.sequence.fork()
        tokens = [*twin.tokens, *ids]

        def work() -> None:
            twin.sync(tokens)
            next(twin.generate(SamplingParams(temperature=0.0, max_tokens=1, stop_ids=())))

        return timed(work)


class Transformers:
    """DeepseekV4ForCausalLM with its own cache; eager experts, the fastest on a CPU."""

    name = "transformers"

    def __init__(self, subject: Subject) -> None:
        from tests.model.test_transformers_parity import twin

        self.model = twin(subject.model)
        self.cache: Any = None
        self.restart()

    def restart(self) -> None:
        from transformers import DynamicCache

        self.cache = DynamicCache(config=self.model.config)

    def extend(self, ids: list[int]) -> float:
        return timed(lambda: self._feed(ids))

    def decode(self, count: int) -> float:
        def work() -> None:
            token = 7
            for _ in range(count):
                token = self._feed([token])

        return timed(work)

    def answer(self, ids: list[int]) -> float:
        kept, self.cache = self.cache, copy.deepcopy(self.cache)
        try:
            return timed(lambda: self._feed(ids))
        finally:
            self.cache = kept

    def _feed(self, ids: list[int]) -> int:
        best = 0
        with torch.inference_mode():
            for low in range(0, len(ids), CHUNK):
                chunk = torch.tensor([ids[low : low + CHUNK]])
                logits = self.model(input_ids=chunk, past_key_values=self.cache, logits_to_keep=1).logits
                best = int(logits[0, -1].argmax())
        return best


class Llama:
    """llama-server over the exported weights. Its own timings, which leave out HTTP, but for `answer`."""

    name = "llama.cpp"

    def __init__(self, server: LlamaServer) -> None:
        self.server = server
        self.ids: list[int] = []

    def restart(self) -> None:
        self.ids = []

    def extend(self, ids: list[int]) -> float:
        self.ids += ids
        answer = self.server.complete(self.ids, 1, reuse=len(self.ids) > len(ids))
        timings = answer["timings"]
        per_token: float = timings["prompt_ms"] / max(1, timings["prompt_n"])
        return per_token * len(ids) / 1000

    def decode(self, count: int) -> float:
        answer = self.server.complete(self.ids, count + 1, reuse=True)
        self.ids += answer["tokens"][:-1]
        timings = answer["timings"]
        # Its clock starts when the first token is there already.
        per_token: float = timings["predicted_ms"] / max(1, timings["predicted_n"] - 1)
        return per_token * count / 1000

    def answer(self, ids: list[int]) -> float:
        self.server.complete(self.ids, 1, reuse=True)
        return timed(lambda: self.server.complete([*self.ids, *ids], 1, reuse=True))


def contestants(
    subject: Subject, peers: list[str], binary: Path | None, folder: Path, *, threads: int, longest: int
) -> list[Contestant]:
    """This project first, then the chosen peers. The caller closes the server of `Llama`."""
    found: list[Contestant] = [Ours(subject.engine(threads))]
    if "transformers" in peers:
        found.append(Transformers(subject))
    if "llama.cpp" in peers and binary is not None:
        server = LlamaServer(binary, subject.gguf(folder), context=longest, threads=threads)
        found.append(Llama(server))
    return found
