"""Which names are renamed to what: by a rule that knows nothing of the model's luck.

Old names are public functions and methods, defined once, of two or three words in lower case, each of whose
occurrences is a whole word in one file of Python code, at most `MOST` of them. New ones are a verb and a noun
that occur nowhere.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

from dsv4_tools.syntax.languages import syntax_of
from dsv4_tools.syntax.trees import definitions

MOST = 8
_OLD = re.compile(r"[a-z]+(_[a-z]+){1,2}")
_TEXT = frozenset({".py", ".pyi", ".md", ".rst", ".toml", ".cfg", ".txt", ".yml", ".yaml", ".ini"})
_VERBS = "collect merge split count build parse write load save update find check sort filter select".split()
_NOUNS = "orders rows entries blocks names labels parts groups values pages cells items events rules".split()


def renames(top: Path, count: int, seed: int = 3) -> list[dict[str, str]]:
    """`count` renames in a repository, fewer where the rule finds fewer."""
    texts = {
        path: path.read_text(encoding="utf-8", errors="replace")
        for path in top.rglob("*")
        if path.is_file() and path.suffix in _TEXT and ".git" not in path.parts
    }
    chance = random.Random(seed)
    old = [name for name in sorted(_defined_once(top)) if _fits(name, texts)]
    chance.shuffle(old)
    known = set(re.findall(r"\w+", "\n".join(texts.values())))
    new = [f"{verb}_{noun}" for verb in _VERBS for noun in _NOUNS if f"{verb}_{noun}" not in known]
    chance.shuffle(new)
    return [{"old": a, "new": b} for a, b in zip(old[:count], new, strict=False)]


def _defined_once(top: Path) -> set[str]:
    names: Counter[str] = Counter()
    for path in sorted(top.rglob("*.py")):
        syntax = syntax_of(path.name)
        if syntax is None or "tests" in path.relative_to(top).parts:
            continue
        names.update(d.name for d in definitions(syntax, path.read_bytes()) if d.kind == "function")
    return {name for name, times in names.items() if times == 1 and _OLD.fullmatch(name)}


def _fits(name: str, texts: dict[Path, str]) -> bool:
    found = {path: text for path, text in texts.items() if name in text}
    anywhere = sum(text.count(name) for text in found.values())
    words = sum(len(re.findall(rf"\b{name}\b", text)) for text in found.values())
    in_code = all(path.suffix == ".py" for path in found)
    return in_code and anywhere == words and 2 <= words <= MOST and len(found) == 1
