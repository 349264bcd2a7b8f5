"""The KV cache: entry formats, immutable pages of 128 tokens, rings of what changes, and their bytes."""
