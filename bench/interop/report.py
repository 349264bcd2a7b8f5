"""The log of a run: a line for each thing tried, with versions and without anything of the machine's own."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Log:
    """Lines as they come; `failed` counts those that say so."""

    failed: int = 0
    skipped: int = 0
    passed: int = 0
    lines: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Something to know."""
        self._say(text)

    def check(self, what: str, good: bool, detail: str = "") -> bool:
        """Something that must hold."""
        self.passed += good
        self.failed += not good
        shown = f" ({detail})" if detail else ""
        self._say(f"  {'ok    ' if good else 'FAILED'} {what}{shown}")
        return good

    def skip(self, what: str, why: str) -> None:
        """Something that could not be tried."""
        self.skipped += 1
        self._say(f"  skipped {what}: {why}")

    def close(self) -> str:
        """The last line, and all of it."""
        self._say(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return "\n".join(self.lines) + "\n"

    def _say(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)
