"""The first screen must not wait for what it does not need."""

from __future__ import annotations

import subprocess
import sys

# Not listed: tree_sitter itself. Textual's TextArea imports that little binding (a millisecond) whenever
# it is installed; the grammars are what is large, and those it loads only for a language.
HEAVY = (
    "torch", "transformers", "pydantic", "git", "httpx", "tokenizers", "dsv4_tools", "dsv4_model",
    "tree_sitter_python", "tree_sitter_markdown", "tree_sitter_bash",
)  # fmt: skip


def test_the_composer_imports_nothing_heavy() -> None:
    script = (
        f"import sys, dsv4_agent.tui.composer.composer\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
