"""V4-Nano, the built-in model: a real DeepSeek-V4 at toy scale, trained by this project on generated agent episodes."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the shipped checkpoint: config.json, tokenizer.json and model.safetensors in the official format."""
