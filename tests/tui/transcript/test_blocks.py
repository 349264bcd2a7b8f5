"""Every block as a pure function: hostile text at several widths, and what each kind shows."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from rich.cells import cell_len

from dsv4_agent.loop.events import (
    CommandExecutionItem,
    FileChangeInfo,
    FileChangeItem,
    ItemStatus,
    ToolCallItem,
)
from dsv4_agent.tui.theme import DARK, PLAIN, palette_for
from dsv4_agent.tui.transcript.blocks.answer import AnswerBlock, LiveAnswer
from dsv4_agent.tui.transcript.blocks.block import Block
from dsv4_agent.tui.transcript.blocks.dropped import DroppedBlock
from dsv4_agent.tui.transcript.blocks.notice import NoticeBlock
from dsv4_agent.tui.transcript.blocks.shell import ShellBlock
from dsv4_agent.tui.transcript.blocks.thinking import LiveThinking, ThinkingBlock
from dsv4_agent.tui.transcript.blocks.tool import ToolBlock
from dsv4_agent.tui.transcript.blocks.user import UserBlock
from dsv4_agent.tui.transcript.diff import render_diff
from dsv4_agent.tui.transcript.frame import Detail, Frame
from dsv4_agent.tui.transcript.rows import copied

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")
DONE = ItemStatus.COMPLETED


def frame(width: int = 80, **changes: object) -> Frame:
    return Frame(width, palette_for(DARK), **changes)


def shown(block: Block, at: Frame) -> list[str]:
    return [row.strip(at.width).text.rstrip() for row in block.rows(at)]


def all_blocks(text: str) -> Iterator[Block]:
    yield UserBlock(text)
    yield AnswerBlock(text)
    yield ThinkingBlock(text, 3, 4.0)
    yield DroppedBlock("answer", text)
    yield from (NoticeBlock(kind, text) for kind in ("info", "warning", "error", text))
    yield ShellBlock(text, text, 1)
    yield ToolBlock(CommandExecutionItem("1", text, text, status=DONE, exit_code=0, output=text))
    yield ToolBlock(CommandExecutionItem("1", text, output_path=text, output_truncated=True), denial=text)
    yield ToolBlock(ToolCallItem("1", text, {"pattern": text, text: [text]}, DONE, text))
    info = FileChangeInfo(text, text, 1, 2, text)
    yield ToolBlock(FileChangeItem("1", text, text, DONE, (info, info), text, text))
    yield ToolBlock(FileChangeItem("1", text, text, ItemStatus.FAILED, (), text, text))
    for live in (LiveAnswer(), LiveThinking(0.0)):
        for start in range(0, len(text), max(len(text) // 50, 1)):
            live.live.append(text[start : start + max(len(text) // 50, 1)])
            live.rows(frame(20))
        yield live


@pytest.mark.parametrize("width", [4, 20, 80, 120])
def test_hostile_text_is_harmless_and_fits(naughty: str, width: int) -> None:
    if width == 4:
        naughty = naughty[:2_000]
    for block in all_blocks(naughty):
        for detail in (Detail.FOLDED, Detail.ALL):
            at = frame(width, detail=detail, thinking=detail is Detail.ALL)
            rows = block.rows(at)
            if isinstance(block, AnswerBlock | UserBlock | ThinkingBlock):
                assert bool(block.estimate(at)) == bool(rows)
            for row in rows:
                text = "".join(part for part, _ in row.gutter + row.spans)
                assert not UNSAFE.search(text), (block, ascii(text))
                assert cell_len(text) <= max(width, 10), (block, ascii(text))
                assert sum(cell_len(part) for part, _ in row.gutter + row.spans) <= max(width, 10)
                assert row.strip(width).cell_length == width
        text = block.text()
        assert not UNSAFE.search(text.replace("\n", "").replace("\t", ""))


@pytest.mark.parametrize("width", [20, 80, 120])
def test_hostile_diffs_are_harmless_and_fit(naughty: str, width: int) -> None:
    for diff in (naughty, "\n".join(f"{sign}{naughty}" for sign in " +-"), f"@@ -1 +1 @@\n+{naughty}"):
        for path in ("a.py", naughty, ""):
            for strip in render_diff(diff, path, width, PLAIN):
                assert strip.cell_length == width
                assert not UNSAFE.search(strip.text)


@pytest.mark.parametrize("width", [20, 80, 120])
def test_nothing_of_a_text_is_lost(naughty: str, width: int) -> None:
    """Plain blocks show every character that is not space, wrapped or not."""
    from dsv4_agent.workbench.plain_text import plain

    rows = UserBlock(naughty).rows(frame(width))
    assert "".join(copied(rows).split()) == "".join(plain(naughty).split())


def test_a_diff_narrower_than_can_be_laid_out_is_cut(diff: str) -> None:
    assert {strip.cell_length for strip in render_diff(diff, "x.py", 1, PLAIN)} == {1}


def test_a_user_turn_has_a_bar_at_every_line() -> None:
    assert shown(UserBlock("one\ntwo"), frame()) == ["▌ one", "▌ two"]


def test_thinking_is_one_line_until_it_is_unfolded() -> None:
    block = ThinkingBlock("first\nsecond", 120, 3.2)
    assert shown(block, frame()) == ["◇ thought for 3 s · 120 tokens"]
    assert shown(block, frame(thinking=True))[1:] == ["  first", "  second"]


def test_live_thinking_previews_its_end() -> None:
    block = LiveThinking(10.0)
    block.live.append("\n".join(f"line {number}" for number in range(20)))
    lines = shown(block, frame(now=13.4))
    assert lines[0].startswith("◇ thinking… 3 s · ~")
    assert lines[1:] == ["  line 17", "  line 18", "  line 19"]
    assert len(shown(block, frame(thinking=True))) == 21


def test_live_text_is_laid_out_like_the_whole(naughty: str) -> None:
    """Whatever the deltas, the rows are those of the text at once (tabs apart: they count from the row)."""
    text = naughty[:3_000].replace("\t", " ").replace("\r", "")
    bits, whole = LiveAnswer(), LiveAnswer()
    for character in text:
        bits.live.append(character)
        bits.rows(frame(24))
    whole.live.append(text)
    assert copied(bits.rows(frame(24))) == copied(whole.rows(frame(24)))
    # Joined marks may end up on either side of a row's end.
    if text.isascii():
        assert bits.rows(frame(24)) == whole.rows(frame(24))


def test_a_line_end_split_between_deltas_is_one_line_end() -> None:
    block = LiveAnswer()
    for delta in ("a\r", "\nb\r", "c"):
        block.live.append(delta)
        block.rows(frame())
    assert shown(block, frame()) == ["  a", "  b\\x0dc"]


def test_a_command_card_tells_state_code_and_time() -> None:
    output = "\n".join(str(number) for number in range(40))
    item = CommandExecutionItem("1", "seq 40", status=DONE, exit_code=0, output=output, duration_ms=1240)
    lines = shown(ToolBlock(item), frame())
    assert lines[0] == "✓ $ seq 40  done · exit 0 · 1.2 s"
    assert lines[1:] == [*(f"  │ {number}" for number in range(6)), "  │ … 34 more lines (Ctrl+O)"]
    assert len(shown(ToolBlock(item), frame(detail=Detail.MORE))) == 41
    assert shown(ToolBlock(item), frame(detail=Detail.ALL))[-1] == "  │ 39"


@pytest.mark.parametrize(
    ("status", "code", "sign", "word"),
    [
        (DONE, 0, "✓", "done · exit 0"),
        (DONE, 2, "✗", "failed · exit 2"),
        (ItemStatus.FAILED, 1, "✗", "failed · exit 1"),
        (ItemStatus.TIMED_OUT, None, "✗", "timed out"),
        (ItemStatus.DECLINED, None, "⊘", "declined"),
        (None, None, "●", "running"),
    ],
)
def test_states_have_sign_and_word(status: ItemStatus | None, code: int | None, sign: str, word: str) -> None:
    block = ToolBlock(CommandExecutionItem("1", "make", status=status, exit_code=code))
    for at in (frame(), Frame(80, PLAIN)):
        assert shown(block, at) == [f"{sign} $ make  {word}"]


def test_a_long_command_is_cut_in_the_header_and_whole_in_detail() -> None:
    command = "echo " + "a" * 200 + "\nrm -rf /"
    block = ToolBlock(CommandExecutionItem("1", command))
    folded = shown(block, frame())
    assert len(folded) == 1
    assert "…" in folded[0]
    assert folded[0].endswith("running")
    whole = copied(block.rows(frame(detail=Detail.ALL))[1:])
    assert whole == command


def test_an_edit_shows_counts_and_diff(diff: str) -> None:
    item = FileChangeItem("1", "edit", "x.py", DONE, (FileChangeInfo("x.py", "update", 2, 1, diff),), "exact")
    lines = shown(ToolBlock(item), frame())
    assert lines[0] == "✓ edit x.py  +2 -1  done"
    assert "  │ 11 -     return None" in lines
    assert "  │ 12 +     raise ParseError(fields)" in lines
    assert "  │ 13       name = 1" in lines


def test_a_long_diff_is_folded_with_a_count() -> None:
    diff = "@@ -0,0 +1,50 @@\n" + "".join(f"+line {number}\n" for number in range(50))
    item = FileChangeItem("1", "write", "x.py", DONE, (FileChangeInfo("x.py", "add", 50, 0, diff),))
    lines = shown(ToolBlock(item), frame())
    assert lines[-1] == "  │ … 39 more lines (Ctrl+O)"
    assert lines[-2].endswith("line 10")
    assert len(shown(ToolBlock(item), frame(detail=Detail.ALL))) == 52


@pytest.mark.parametrize(("count", "last"), [(6, "5"), (7, "6"), (8, "… 2 more lines (Ctrl+O)")])
def test_a_single_row_is_not_folded_away(count: int, last: str) -> None:
    output = "\n".join(map(str, range(count)))
    assert shown(ShellBlock("seq", output, 0), frame())[-1] == f"  │ {last}"


def test_a_failed_edit_shows_what_the_model_was_told() -> None:
    item = FileChangeItem("1", "edit", "x.py", ItemStatus.FAILED, output="old_string not found")
    assert shown(ToolBlock(item), frame()) == ["✗ edit x.py  failed", "  │ old_string not found"]


def test_a_tool_call_shows_its_telling_arguments_first() -> None:
    item = ToolCallItem("1", "grep", {"limit": 3, "path": "src", "pattern": "def"}, DONE)
    assert shown(ToolBlock(item), frame()) == ['✓ grep "def" src limit=3  done']


def test_a_line_of_a_megabyte_costs_what_is_shown() -> None:
    item = CommandExecutionItem("1", "x", status=DONE, output="y" * 1_000_000 + "\nz")
    lines = shown(ToolBlock(item), frame())
    assert len(lines) == 8
    assert lines[-1] == "  │ … 2 more lines (Ctrl+O)"


def test_notices_say_what_they_are() -> None:
    assert shown(NoticeBlock("error", "no model"), frame()) == ["✗ error: no model"]
    assert shown(NoticeBlock("warning", "slow"), frame()) == ["! warning: slow"]
    assert shown(NoticeBlock("repair", "fixed"), frame()) == ["· fixed"]
