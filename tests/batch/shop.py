"""A small repository in which things are renamed."""

from __future__ import annotations

SHOP = {
    "shop.py": "def total_price(items):\n    return sum(items)\n",
    "tax.py": "def apply_tax(value):\n    return value * 2\n",
    "name.py": "def unit_name(value):\n    return str(value)\n",
    "use.py": (
        "from shop import total_price\n\n\nfrom tax import apply_tax\n\n\nfrom name import unit_name\n\n\n"
        "print(total_price([1, 2]))\n\n\nprint(apply_tax(3))\n\n\nprint(unit_name(4))\n"
    ),
}
