"""Lines and their labels, whatever strange text goes into them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4_agent.chat.dialogue import Choice
from dsv4_agent.chat.events import Opened, ShellRan
from dsv4_agent.chat.outcomes import Copy, Option, Page, Patch, Pick, Say, UseTheme
from dsv4_agent.chat.submission import CommandLine, Prompt, ShellLine, judge
from dsv4_agent.loop.events import (
    AgentMessageItem,
    ApprovalRequested,
    CommandExecutionItem,
    FileChangeInfo,
    FileChangeItem,
    ItemCompleted,
    ItemDelta,
    ItemStarted,
    ItemStatus,
    Notice,
    PermissionDenied,
    PrefixBreak,
    ReasoningItem,
    Retry,
    ToolCallItem,
    UserMessage,
)
from dsv4_agent.loop.facts import Discarded
from dsv4_agent.plain.diffs import patch_lines
from dsv4_agent.plain.labels import Label
from dsv4_agent.plain.narrator import Narrator
from dsv4_agent.plain.outcomes import print_outcome
from dsv4_agent.plain.printer import Printer
from dsv4_agent.plain.questions import approval_answer

NAUGHTY = [
    "\x1b[31mred\x1b[0m",
    "\x1b]52;c;aGk=\x07",
    "abc\u202edef",
    "[/foo] [bold]x",
    "one\rtwo",
    "\x9b2J\x85",
    "a\u2028b",
    "\ud800",
    "tab\tbed\x00",
    "first\nError: not ours\n> y",
]
HARMLESS = {chr(c) for c in range(0x20)} - {"\n"} | {"\x7f", "\x85", "\x9b", "\u202e", "\u2028", "\ud800"}


def everything(s: str) -> list[object]:
    change = FileChangeInfo(s, "update", 1, 1, f"@@ -1 +1 @@\n-{s}\n+{s}")
    done = ItemStatus.COMPLETED
    denied = PermissionDenied("shell", {"command": s}, s, s, s)
    return [
        UserMessage(s), Notice("info", s), Notice("warning", s), Notice("error", s), Retry(1, 2, s, 5),
        Retry(1, 2, s, 5, Discarded(s, s, s)), PrefixBreak(s, 1), denied, ShellRan(s, s, 1),
        ItemStarted(AgentMessageItem("a")), ItemDelta("a", s), ItemDelta("a", s),
        ItemCompleted(AgentMessageItem("a", s + s)), ItemCompleted(ReasoningItem("r", s)),
        ItemStarted(CommandExecutionItem("c", s)), Notice("info", s),
        ItemCompleted(CommandExecutionItem("c", s, status=done, exit_code=0, output=s)),
        ItemStarted(ToolCallItem("t", "read", {"path": s})),
        ItemCompleted(ToolCallItem("t", "read", {"path": s}, status=done, output=s)),
        ItemCompleted(FileChangeItem("f", "edit", s, done, (change,), output=s)),
        ItemCompleted(FileChangeItem("g", "edit", s, ItemStatus.FAILED, output=s)),
        ApprovalRequested("q", "shell", {"command": s, "timeout": s}, s, s, s),
        ApprovalRequested("q", "edit", {"path": s}, s, s, s, (change,)),
        ApprovalRequested("q", "write", {"path": s}, s, s, s, (), s),
        Opened((UserMessage(s), ItemCompleted(AgentMessageItem("a", s)))),
    ]  # fmt: skip


OUTCOMES: list[Callable[[str], Say | Page | Patch | Pick | Copy | UseTheme]] = [
    lambda s: Say("info", s),
    lambda s: Page(s, s),
    lambda s: Patch(s, f"diff --git a/{s} b/{s}\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-{s}\n+{s}"),
    lambda s: Pick(s, (Option("v", s, s),), "/x"),
    lambda s: Copy(s),
    lambda s: UseTheme(s),
]


@pytest.mark.parametrize("text", NAUGHTY)
def test_nothing_foreign_steers_the_terminal_or_passes_for_a_label(
    text: str, unlabelled: Callable[[str], list[str]]
) -> None:
    out: list[str] = []
    printer = Printer(out.append)
    narrator = Narrator(printer)
    for event in everything(text):
        narrator.show(event)  # type: ignore[arg-type]
    for make in OUTCOMES:
        print_outcome(printer, make(text))
    printed = "".join(out)
    assert not HARMLESS & set(printed)
    assert not unlabelled(printed)
    # The foreign second line never stands where a label of ours would.
    assert "\nError: not ours" not in printed and "\n> y" not in printed


def test_a_turn_that_begins_anew_says_that_what_was_read_out_counts_no_more() -> None:
    out: list[str] = []
    narrator = Narrator(Printer(out.append))
    for event in (
        ItemStarted(AgentMessageItem("a")),
        ItemDelta("a", "Half an ans"),
        ItemCompleted(AgentMessageItem("a", "Half an ans", partial=True)),
        Retry(2, 5, "stream_broken", 1500, Discarded("", "Half an ans", "")),
    ):
        narrator.show(event)
    assert "".join(out) == (
        "Answer: Half an ans\n"
        "Warning: retrying 2 of 5 in 1.5 s: stream_broken. "
        "What came of this answer is dropped, it begins anew.\n"
    )


@given(st.text(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_a_streamed_answer_is_the_same_however_it_was_cut(text: str, cuts: list[int]) -> None:
    def printed(pieces: list[str]) -> str:
        out: list[str] = []
        narrator = Narrator(Printer(out.append))
        narrator.show(ItemStarted(AgentMessageItem("a")))
        for piece in pieces:
            narrator.show(ItemDelta("a", piece))
        narrator.show(ItemCompleted(AgentMessageItem("a", text)))
        return "".join(out)

    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    assert printed(pieces) == printed([])


def test_a_stream_that_was_interrupted_says_again_what_it_is() -> None:
    out: list[str] = []
    narrator = Narrator(Printer(out.append))
    narrator.show(ItemStarted(AgentMessageItem("a")))
    narrator.show(ItemDelta("a", "one\ntwo\nth"))
    narrator.show(Notice("info", "by the way"))
    narrator.show(ItemCompleted(AgentMessageItem("a", "one\ntwo\nthree\n\n")))
    assert "".join(out) == "Answer: one\n  two\nNotice: by the way\nAnswer: three\n"


def test_a_call_that_is_asked_about_is_not_said_to_run() -> None:
    out: list[str] = []
    narrator = Narrator(Printer(out.append))
    narrator.show(ItemStarted(CommandExecutionItem("c", "rm x")))
    assert out == []
    question = ApprovalRequested("c", "shell", {"command": "rm x"}, None, "mode", "why")
    narrator.show(question)
    assert "Running" not in "".join(out)
    narrator.allowed(question)
    assert out[-1] == "Running: rm x\n"


def test_long_output_is_folded() -> None:
    out: list[str] = []
    output = "\n".join(map(str, range(1, 24)))
    item = CommandExecutionItem(
        "c", "x", status=ItemStatus.COMPLETED, exit_code=0, output=output, duration_ms=1234
    )
    Narrator(Printer(out.append)).show(ItemCompleted(item))
    lines = "".join(out).splitlines()
    assert lines[0] == "Result: exit 0, 1.2 s"
    assert lines[-2:] == ["  20", "  ... 3 more lines"]


def test_every_line_of_a_command_has_a_number_in_front() -> None:
    out: list[str] = []
    question = ApprovalRequested("c", "shell", {"command": "ls\nReason: all is well"}, None, "mode", "why")
    Narrator(Printer(out.append)).show(question)
    assert "  Line 1 of 2: ls\n  Line 2 of 2: Reason: all is well\n" in "".join(out)


def test_a_patch_is_told_in_words() -> None:
    patch = (
        "diff --git a/x.py b/x.py\nindex 1..2 100644\n--- a/x.py\n+++ b/x.py\n"
        "@@ -1,2 +1,2 @@ def f():\n same\n--- x\n+++ y\n"
    )
    expected = ["File: x.py", "Lines -1,2 +1,2", "Same: same", "Removed: -- x", "Added: ++ y"]
    assert list(patch_lines(patch)) == expected


@pytest.mark.parametrize(
    ("text", "lasting", "expected"),
    [
        ("y", True, (Choice.ONCE, "")),
        (" Yes. ", True, (Choice.ONCE, "")),
        ("s", True, (Choice.SESSION, "")),
        ("always", True, (Choice.ALWAYS, "")),
        ("a", False, None),
        ("s", False, None),
        ("no, use git mv", True, (Choice.NO, "use git mv")),
        ("n", False, (Choice.NO, "")),
        ("yes but first look", True, None),
        ("", True, None),
        ("yy", True, None),
    ],
)
def test_what_counts_as_an_answer(text: str, lasting: bool, expected: object) -> None:
    assert approval_answer(text, lasting) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", Prompt("hello")),
        ("/context", CommandLine("/context")),
        ("/rename a b", CommandLine("/rename a b")),
        ("/?", CommandLine("/help")),
        ("?", CommandLine("/help")),
        ("/nonsense", CommandLine("/nonsense")),
        ("//context", Prompt("/context")),
        ("/tmp is full", Prompt("/tmp is full")),
        ("/usr/bin/ls fails", Prompt("/usr/bin/ls fails")),
        ("!ls -l", ShellLine("ls -l")),
        ("!", Prompt("!")),
    ],
)
def test_what_a_line_is(text: str, expected: object) -> None:
    assert judge(text, {"context", "rename", "help"}) == expected


def test_labels_are_words() -> None:
    assert all(label.value.replace(" ", "").isalpha() for label in Label)


def test_the_app_is_light_to_import() -> None:
    code = (
        "import sys, dsv4_agent.plain.app, dsv4_agent.plain.keyboard;"
        "print([m for m in ('torch', 'textual', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
