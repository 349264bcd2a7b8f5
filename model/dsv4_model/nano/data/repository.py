"""Small generated source files: Python, JavaScript, Go, notes and configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from dsv4_model.nano.data.names import Names


@dataclass
class Repository:
    """Files of one generated repository, path to text; every text ends with a newline."""

    files: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, text: str) -> str:
        self.files[path] = text if text.endswith("\n") else text + "\n"
        return path


def path_for(names: Names, suffix: str) -> str:
    return f"{names.folder()}{names.stem()}{suffix}"


def python_function(names: Names, name: str, argument: str, calls: tuple[str, ...] = ()) -> str:
    """One function of two to four lines, which calls each of `calls` once."""
    rng = names.rng
    body = []
    for callee in calls:
        body.append(f"    {argument} = {callee}({argument})")
    if rng.random() < 0.4:
        body.insert(0, f'    """{names.sentence(2, 4)}."""')
    ending = rng.choice(
        (
            f"    return {argument}",
            f"    return {argument} + {rng.randrange(1, 90)}",
            f"    return {argument} * {rng.randrange(2, 20)}",
            f"    return [{argument}]",
            f"    return len({argument})",
        )
    )
    return f"def {name}({argument}):\n" + "\n".join([*body, ending]) + "\n"


def python_module(names: Names, *, functions: int = 2) -> str:
    """A module of a few functions that use nothing of other files."""
    return "\n\n".join(python_function(names, names.snake(), names.noun()) for _ in range(functions))


def javascript_module(names: Names, functions: int = 2) -> str:
    rng = names.rng
    parts = []
    for _ in range(functions):
        argument = names.noun()
        parts.append(
            f"function {names.camel()}({argument}) {{\n  return {argument} + {rng.randrange(1, 90)};\n}}\n"
        )
    return "\n".join(parts)


def go_module(names: Names) -> str:
    return (
        f"package {names.noun()}\n\nfunc {names.pascal()}(n int) int {{\n"
        f"\treturn n + {names.rng.randrange(1, 90)}\n}}\n"
    )


def note(names: Names, lines: int | None = None) -> str:
    """Plain sentences, one a line, no two alike."""
    count = lines or names.rng.randint(2, 5)
    seen: dict[str, None] = {}
    while len(seen) < count:
        seen[names.sentence()] = None
    return "\n".join(seen) + "\n"


def entries(names: Names, count: int) -> list[tuple[str, str]]:
    """Pairs of key and value, keys all different."""
    keys: dict[str, str] = {}
    while len(keys) < count:
        key = names.noun() if names.rng.random() < 0.5 else f"{names.noun()}_{names.noun()}"
        keys[key] = names.value()
    return list(keys.items())


def configuration(names: Names, pairs: list[tuple[str, str]]) -> tuple[str, str]:
    """`(suffix, text)` of a configuration file in one of five formats."""
    match names.rng.randrange(5):
        case 0:
            return ".ini", f"[{names.noun()}]\n" + "".join(f"{k} = {v}\n" for k, v in pairs)
        case 1:
            return ".json", json.dumps(dict(pairs), indent=2) + "\n"
        case 2:
            return ".yaml", "".join(f"{k}: {v}\n" for k, v in pairs)
        case 3:
            return ".env", "".join(f"{k.upper()}={v}\n" for k, v in pairs)
        case _:
            return ".toml", "".join(f'{k} = "{v}"\n' for k, v in pairs)


def distractors(names: Names, repository: Repository, low: int = 0, high: int = 2) -> None:
    """Add files that have nothing to do with the task."""
    rng = names.rng
    for _ in range(rng.randint(low, high)):
        match rng.randrange(4):
            case 0:
                repository.add(path_for(names, ".md"), note(names))
            case 1:
                repository.add(path_for(names, ".js"), javascript_module(names, 1))
            case 2:
                repository.add(path_for(names, ".txt"), note(names))
            case _:
                repository.add(path_for(names, ".py"), python_module(names, functions=1))
