"""Why a text is no tokenizer.json of DeepSeek-V4. Slow and thorough: only for files that can't be used."""

from __future__ import annotations

import json
from typing import Any


def fault_of(text: str, library_says: str) -> str:
    """The problem, to be put behind the file's name; `library_says` where nothing else is found."""
    try:
        definition: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f" is not valid JSON: {error}."
    match definition:
        case {"model": {"type": "BPE"}, "added_tokens": list(entries)}:
            pass
        case {"model": {"type": str(kind)}} if kind != "BPE":
            return f" is not a DeepSeek-V4 tokenizer: its model is {kind}, not BPE."
        case _:
            return " is not a tokenizer file: no BPE model or no added tokens."
    if "ByteLevel" not in json.dumps(definition.get("decoder")):
        return " is not a DeepSeek-V4 tokenizer: its decoder is not byte-level."
    for entry in entries:
        match entry:
            case {"content": str(content), "id": int()} if content:
                pass
            case _:
                return f": malformed added token {entry!r}."
    return f" is corrupt: {library_says}."
