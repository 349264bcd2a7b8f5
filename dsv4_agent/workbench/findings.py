"""What an examination found: a line each, with a remedy where something is to be done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from dsv4_agent.workbench.plain_text import plain_line


class Grade(StrEnum):
    """`note` is worth knowing, `problem` keeps something from working."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` is a sentence without its stop; empty where all is well."""

    name: str
    grade: Grade
    text: str
    remedy: str = ""


_MARKS = {Grade.OK: " ", Grade.NOTE: "-", Grade.PROBLEM: "!"}


def as_lines(findings: Iterable[Finding]) -> list[str]:
    """Findings as a table of harmless lines: `!` marks problems, `-` notes."""
    findings = list(findings)
    width = max((len(finding.name) for finding in findings), default=0)
    return [
        f"{_MARKS[found.grade]} {plain_line(found.name):<{width}}  {plain_line(_sentences(found))}"
        for found in findings
    ]


def _sentences(found: Finding) -> str:
    if not found.remedy:
        return found.text
    stop = "" if found.remedy.endswith(("?", ".", "!")) else "."
    return f"{found.text}. {found.remedy}{stop}"


def as_data(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Findings for JSON."""
    return [
        {"name": found.name, "grade": found.grade.value, "text": found.text, "remedy": found.remedy}
        for found in findings
    ]


def any_problem(findings: Iterable[Finding]) -> bool:
    """Whether something has to be mended."""
    return any(found.grade is Grade.PROBLEM for found in findings)


def of_line(name: str, line: str) -> Finding:
    """A problem from one line in the form `cause: remedy` or `cause; remedy`."""
    for sign in ("; ", ": "):
        cause, found, remedy = line.rpartition(sign)
        if found and cause:
            return Finding(name, Grade.PROBLEM, cause, f"{remedy[:1].upper()}{remedy[1:]}".rstrip("."))
    return Finding(name, Grade.PROBLEM, line.rstrip("."))
