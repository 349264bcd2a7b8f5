"""What a generation costs, where a server counts and the prices are known."""

from __future__ import annotations

from dsv4_agent.backends.profile import Prices


def cost_of(prices: Prices | None, *, prompt: int, cached: int, output: int) -> float | None:
    """The price in `prices.currency`; `cached` of the `prompt` tokens were in the server's cache."""
    if prices is None:
        return None
    hits = min(max(cached, 0), prompt)
    return (hits * prices.hit + (prompt - hits) * prices.miss + output * prices.output) / 1_000_000
