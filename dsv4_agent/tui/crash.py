"""The end of a broken app: the terminal as it was, one line with the report's place, no variables' values."""

from __future__ import annotations

from rich.text import Text

from dsv4_agent.workbench.crash_report import write_crash_report


def farewell(error: BaseException) -> Text:
    """What is printed after the screen has been given back."""
    where = write_crash_report(error)
    report = f" Report: {where}" if where else ""
    saved = "The session is on disk: dsv4 chat --resume last goes on with it."
    return Text(f"dsv4: error: internal error ({type(error).__name__}).{report}\n{saved}")
