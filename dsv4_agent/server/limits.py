"""What a server allows itself and its clients."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one server.

    Attributes:
        sequences: turns that are computed at the same time.
        queue: turns that may wait for a place; more are answered 429.
        idle_bytes: most bytes of KV states kept for requests to come.
        max_tokens: most tokens that one request may sample.
        seconds: longest time of one request, waiting included.
        body_bytes: largest request body.
        body_seconds: longest time a body may take to arrive.
        prompts: most prompts in one completions request.
        stops: most stop strings of one request.
        connections: most connections at a time.
        remembered: assistant turns whose exact tokens are kept to be replayed.
    """

    sequences: int = 32
    queue: int = 128
    idle_bytes: int = 1 << 30
    max_tokens: int = 65_536
    seconds: float = 1800.0
    body_bytes: int = 32 << 20
    body_seconds: float = 60.0
    prompts: int = 32
    stops: int = 16
    connections: int = 1024
    remembered: int = 2048
