"""V4-Nano, the built-in model: a real DeepSeek-V4 at toy scale, trained on generated episodes."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the shipped checkpoint in the official format: config, tokenizer and weights."""
