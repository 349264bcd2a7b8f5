"""Importing the widget is cheap."""

from __future__ import annotations

import subprocess
import sys

HEAVY = "torch transformers pydantic tree_sitter git httpx pygments markdown_it rich.markdown".split()


def test_the_widget_imports_nothing_heavy() -> None:
    code = f"""
import sys
import dsv4_agent.tui.transcript.view
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
