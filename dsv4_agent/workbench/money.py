"""What a model costs, as people read it."""

from __future__ import annotations


def price(cost: float, currency: str | None) -> str:
    """An amount with as many digits as it takes to see small ones: `0.0042 USD`, `12.30 USD`."""
    amount = f"{cost:,.2f}" if cost >= 1 else f"{cost:.4f}"
    if cost and not float(amount.replace(",", "")):
        amount = "< 0.0001"
    return f"{amount} {currency}" if currency else amount
