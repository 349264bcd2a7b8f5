"""The failure of a run that a user can mend: cause, remedy, and how the process must end."""

from __future__ import annotations

from dsv4_agent.workbench.exit_codes import Ending, ExitCode, exit_code


class RunFailure(Exception):
    """A run can't start or go on. `cause` and `remedy` are one line each, written for the user."""

    def __init__(self, ending: Ending, cause: str, remedy: str = "", code: ExitCode | None = None) -> None:
        super().__init__(cause)
        self.ending = ending
        self.cause = " ".join(cause.split())
        self.remedy = " ".join(remedy.split())
        self.code = exit_code(ending) if code is None else code

    def line(self) -> str:
        """Cause and remedy as one line, unsanitised."""
        stop = "" if self.cause.endswith((".", "!", "?")) else "."
        return f"{self.cause}{stop} {self.remedy}".strip()
