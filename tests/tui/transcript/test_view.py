"""The widget in a running application: streaming, scrolling, resizing, selecting."""

from __future__ import annotations

import pytest
from textual.events import MouseScrollDown, MouseScrollUp
from textual.geometry import Offset
from textual.pilot import Pilot
from textual.selection import Selection

from dsv4_agent.loop.events import (
    AgentMessageItem,
    CommandExecutionItem,
    Compacted,
    ContextUpdated,
    Event,
    ItemCompleted,
    ItemDelta,
    ItemStarted,
    ItemStatus,
    Notice,
    PermissionDenied,
    PrefixBreak,
    ReasoningItem,
    Retry,
    Rewound,
    RunResult,
    Subtype,
    TurnStarted,
    UserMessage,
)
from dsv4_agent.loop.facts import Discarded
from dsv4_agent.tui.transcript.view import TranscriptView


def screen(view: TranscriptView) -> list[str]:
    return [view.render_line(y).text.rstrip() for y in range(view.size.height)]


def everything(view: TranscriptView) -> list[str]:
    """All rows, top to bottom, exactly laid out."""
    sheet = view._sheet
    return [
        row.strip(sheet.frame.width).text.rstrip()
        for index in range(len(view.blocks))
        for row in sheet.rows_with_gap(index)
    ]


async def drawn(pilot: Pilot[None]) -> None:
    """Wait until what was applied is laid out, however slow the machine."""
    await pilot.pause()
    while pilot.app.query_one(TranscriptView)._touched:
        await pilot.pause(0.02)
    await pilot.pause()


async def test_streaming_ends_as_loading_does(host, make_session) -> None:
    async with host.run_test(size=(70, 20)) as pilot:
        for event in make_session(3, streamed=True):
            host.view.apply(event)
        await drawn(pilot)
        streamed, seen = everything(host.view), screen(host.view)
        host.view.clear()
        await drawn(pilot)
        assert not any(screen(host.view))
        host.view.load(make_session(3))
        await drawn(pilot)
        assert everything(host.view) == streamed
        assert screen(host.view) == seen


async def test_a_long_session_scrolls_without_losing_or_repeating_a_row(host, make_session) -> None:
    """Paging up from the end through estimated blocks shows each row once, in order."""
    async with host.run_test(size=(60, 20)) as pilot:
        view = host.view
        view.load(make_session(834))
        await drawn(pilot)
        assert len(view.blocks) >= 5_000
        assert view.follow
        rows = everything(view)
        assert screen(view) == rows[-20:]
        seen, pages = screen(view), 0
        while pages < 60:
            view.scroll_to(y=view.scroll_y - 20)
            seen = screen(view) + seen
            pages += 1
        assert seen == rows[-len(seen) :]
        view.scroll_home(animate=False)
        await drawn(pilot)
        assert screen(view) == rows[:20]
        seen = screen(view)
        for _ in range(60):
            view.scroll_to(y=view.scroll_y + 20)
            seen += screen(view)
        assert seen == rows[: len(seen)]
        assert not view.follow
        assert len(view._sheet._cache) < 2_000
        view.follow = True
        assert screen(view) == rows[-20:]


async def test_rows_are_kept_for_blocks_near_the_screen_only(host, make_session) -> None:
    async with host.run_test(size=(60, 20)) as pilot:
        host.view.load(make_session(400))
        await drawn(pilot)
        assert len(host.view._sheet._cache) < 40


@pytest.mark.parametrize("size", [(40, 20), (100, 20), (60, 12), (60, 40)])
async def test_a_resize_keeps_the_place(host, make_session, size) -> None:
    async with host.run_test(size=(60, 20)) as pilot:
        view = host.view
        view.load(make_session(60))
        await drawn(pilot)
        view.scroll_to(y=view.virtual_size.height // 2)
        while not screen(view)[0].startswith("  Answer"):
            view.scroll_to(y=view.scroll_y - 1)
        first = screen(view)[0].split(".")[0]
        await pilot.resize_terminal(*size)
        await drawn(pilot)
        assert screen(view)[0].startswith(first)
        await pilot.resize_terminal(60, 20)
        await drawn(pilot)
        assert screen(view)[0].startswith(first)


async def test_a_resize_at_the_end_stays_at_the_end(host, make_session) -> None:
    async with host.run_test(size=(60, 20)) as pilot:
        host.view.load(make_session(60))
        for size in ((40, 12), (100, 30), (30, 10)):
            await pilot.resize_terminal(*size)
            await drawn(pilot)
            assert host.view.follow
            assert screen(host.view) == everything(host.view)[-size[1] :]


async def test_follow_ends_by_scrolling_up_and_begins_at_the_end(host, make_session) -> None:
    async with host.run_test(size=(60, 20)) as pilot:
        view = host.view
        view.load(make_session(20))
        view.focus()
        await drawn(pilot)
        for key in ("pageup", "shift+up", "up", "home"):
            view.follow = True
            await pilot.press(key)
            await drawn(pilot)
            assert not view.follow, key
            assert view.lines_below > 0
        assert host.positions[-1] == (False, view.lines_below)
        top = screen(view)
        view.apply(ItemStarted(AgentMessageItem("new")))
        for _ in range(40):
            view.apply(ItemDelta("new", "more\n"))
        below = view.lines_below
        await drawn(pilot)
        assert screen(view) == top
        assert view.lines_below > below
        await pilot.press("end")
        await drawn(pilot)
        assert view.follow
        assert view.lines_below == 0
        assert host.positions[-1] == (True, 0)
        view.apply(ItemDelta("new", "the very end"))
        await drawn(pilot)
        assert screen(view)[-1] == "  the very end"


async def test_the_wheel_stops_following_and_comes_back(host, make_session) -> None:
    async with host.run_test(size=(60, 20)) as pilot:
        view = host.view
        view.load(make_session(20))
        await drawn(pilot)
        await pilot._post_mouse_events([MouseScrollUp], view, button=0)
        await drawn(pilot)
        assert not view.follow
        for _ in range(3):
            await pilot._post_mouse_events([MouseScrollDown], view, button=0)
        await drawn(pilot)
        assert view.follow


async def test_a_user_turn_goes_to_the_end(host, make_session) -> None:
    async with host.run_test(size=(60, 20)) as pilot:
        host.view.load(make_session(20))
        host.view.scroll_home(animate=False)
        await drawn(pilot)
        host.view.apply(UserMessage("here"))
        await drawn(pilot)
        assert screen(host.view)[-1] == "▌ here"


async def test_thinking_and_detail_unfold_and_keep_the_place(host, make_session) -> None:
    async with host.run_test(size=(60, 20)) as pilot:
        view = host.view
        view.load(make_session(20))
        await drawn(pilot)
        folded = everything(view)
        view.scroll_to(y=100)
        while not screen(view)[0].startswith("▌ question"):
            view.scroll_to(y=view.scroll_y + 1)
        top = screen(view)[0]
        view.toggle_thinking()
        await drawn(pilot)
        assert screen(view)[0] == top
        assert len(everything(view)) > len(folded)
        view.toggle_thinking()
        assert everything(view) == folded
        assert any("14 more lines (Ctrl+O)" in line for line in folded)
        view.cycle_detail()
        await drawn(pilot)
        assert screen(view)[0] == top
        assert not any("more line" in line for line in everything(view))
        view.cycle_detail()
        view.cycle_detail()
        assert everything(view) == folded


async def test_deltas_are_coalesced(host) -> None:
    async with host.run_test(size=(60, 20)) as pilot:
        view, flushes = host.view, []
        flush = view._pace._draw
        view._pace._draw = lambda: (flushes.append(1), flush())[1]
        view.apply(ItemStarted(AgentMessageItem("a")))
        for number in range(2_000):
            view.apply(ItemDelta("a", f"{number} "))
        await drawn(pilot)
        assert len(flushes) <= 3
        assert "1999" in screen(view)[-1] or "1999" in "".join(screen(view))


async def test_a_selection_gives_the_text_without_gutters(host) -> None:
    async with host.run_test(size=(40, 20)) as pilot:
        view = host.view
        view.apply(UserMessage("first line\nsecond line"))
        view.add_shell("ls", "one\ntwo", 0)
        view.apply(ItemCompleted(AgentMessageItem("a", "words " * 12)))
        await drawn(pilot)
        await pilot.mouse_down(view, offset=(8, 0))
        await pilot.hover(view, offset=(7, 1))
        await drawn(pilot)
        assert host.screen.get_selected_text() == "line\nsecond"
        highlight = host.screen.get_component_rich_style("screen--selection").bgcolor
        marked = [
            segment.text
            for segment in view.render_line(0)
            if segment.style and segment.style.bgcolor == highlight
        ]
        assert "".join(marked) == "line"
        await pilot.mouse_up(view, offset=(7, 1))
        await pilot.mouse_down(view, offset=(0, 4))
        await pilot.hover(view, offset=(39, 8))
        await drawn(pilot)
        assert host.screen.get_selected_text() == "one\ntwo\n\n" + "words " * 11 + "words"


async def test_a_selection_stays_while_text_comes_in_above_and_below(host, make_session) -> None:
    async with host.run_test(size=(60, 20)) as pilot:
        view = host.view
        view.load(make_session(10))
        view.scroll_to(y=50)
        await drawn(pilot)
        await pilot.mouse_down(view, offset=(2, 3))
        await pilot.hover(view, offset=(30, 9))
        before = host.screen.get_selected_text()
        assert before
        await pilot.mouse_up(view, offset=(30, 9))
        view.apply(ItemCompleted(AgentMessageItem("z", "more\n" * 50)))
        view.scroll_home(animate=False)
        await drawn(pilot)
        assert host.screen.get_selected_text() == before


async def test_select_all_gives_the_whole_session(host, make_session) -> None:
    async with host.run_test() as pilot:
        host.view.load(make_session(2))
        await drawn(pilot)
        assert host.view.get_selection(Selection(None, None)) == (host.view.text(all=True), "\n")
        assert host.view.get_selection(Selection(Offset(0, 0), Offset(8, 0))) == ("question", "\n")


async def test_text_and_last_answer(host, make_session, answer) -> None:
    async with host.run_test() as pilot:
        view = host.view
        assert view.last_answer() == ""
        view.load(make_session(2))
        await drawn(pilot)
        assert view.last_answer() == f"Answer 1. {answer}".rstrip("\n")
        talk, whole = view.text(all=False), view.text(all=True)
        assert talk.startswith("> question 0\n\nAnswer 0.")
        assert "pytest" not in talk
        assert "Thinking of 1." in whole
        assert "[$ pytest -q · done · exit 0]\nsrc/module_0.py" in whole
        view.apply(ItemStarted(AgentMessageItem("x")))
        view.apply(ItemDelta("x", "half an ans\x1b"))
        assert view.last_answer() == "half an ans\\x1b"


@pytest.mark.parametrize("open_item", [True, False])
async def test_what_a_turn_that_begins_anew_had_said_is_marked_as_dropped(host, open_item: bool) -> None:
    async with host.run_test(size=(80, 30)) as pilot:
        view = host.view
        events: list[Event] = [
            TurnStarted(1),
            ItemStarted(AgentMessageItem("0")),
            ItemCompleted(AgentMessageItem("0", "An answer that stays.")),
            TurnStarted(2),
            ItemStarted(ReasoningItem("r")),
            ItemCompleted(ReasoningItem("r", "secret thought", 3)),
            ItemStarted(AgentMessageItem("a")),
            ItemDelta("a", "half an ans"),
        ]
        if not open_item:
            events.append(ItemCompleted(AgentMessageItem("a", "half an ans", partial=True)))
        events += [
            Retry(1, 5, "stream_broken", 1500, Discarded("secret thought", "half an ans", "")),
            ItemStarted(AgentMessageItem("b")),
            ItemCompleted(AgentMessageItem("b", "All of it.")),
        ]
        for event in events:
            view.apply(event)
        await drawn(pilot)
        assert [line for line in screen(view) if line] == [
            "  An answer that stays.",
            "✗ dropped: thinking of 14 characters",
            "✗ dropped: answer of 11 characters",
            "! warning: stream_broken; retrying 1 of 5 in 1.5 s",
            "  All of it.",
        ]
        assert view.last_answer() == "All of it."


async def test_other_events(host) -> None:
    async with host.run_test(size=(80, 30)) as pilot:
        view = host.view
        rm = CommandExecutionItem("1", "rm -rf x")
        events: list[Event | object] = [
            TurnStarted(1),
            object(),
            ItemDelta("nobody", "lost"),
            ItemStarted(rm),
            PermissionDenied("shell", {"command": "rm -rf x"}, "shell(rm *)", "user", "a rule denies it"),
            ItemCompleted(CommandExecutionItem("1", "rm -rf x", status=ItemStatus.DECLINED)),
            PermissionDenied("edit", {"path": "x.py"}, None, "mode", "plan mode"),
            Retry(2, 5, "busy", 1500),
            PrefixBreak("compaction", 12_000),
            Notice("repair", "a call was mended"),
            ItemStarted(ReasoningItem("r")),
            ItemDelta("r", "hm"),
            ItemStarted(CommandExecutionItem("2", "sleep 9")),
            result(Subtype.ABORTED),
            result(Subtype.MODEL, "The model is missing. Run `dsv4 doctor`."),
            result(Subtype.SUCCESS),
        ]
        for event in events:
            view.apply(event)
        await drawn(pilot)
        assert [line for line in screen(view) if line] == [
            "⊘ $ rm -rf x  declined",
            "  │ a rule denies it (rule shell(rm *))",
            "! warning: edit x.py was declined: plan mode",
            "! warning: busy; retrying 2 of 5 in 1.5 s",
            "· compaction: 12,000 cached tokens are computed again",
            "· a call was mended",
            "◇ thought",
            "■ $ sleep 9  interrupted",
            "! warning: interrupted",
            "✗ error: The model is missing. Run `dsv4 doctor`.",
        ]


def result(subtype: Subtype, error: str | None = None) -> RunResult:
    failed = subtype is not Subtype.SUCCESS
    return RunResult(
        subtype=subtype,
        is_error=failed,
        exit_code=int(failed),
        result="",
        session_id="s",
        num_turns=1,
        duration_ms=1,
        error=error,
    )


async def test_events_before_the_first_paint_are_shown(host) -> None:
    view = TranscriptView()
    view.apply(UserMessage("early"))
    view.apply(ItemStarted(AgentMessageItem("a")))
    view.apply(ItemDelta("a", "early too"))
    host.compose = lambda: iter([view])
    async with host.run_test(size=(40, 10)) as pilot:
        await drawn(pilot)
        assert [line for line in screen(view) if line] == ["▌ early", "  early too"]


async def test_hostile_text_on_the_screen(host, naughty) -> None:
    async with host.run_test(size=(30, 12)) as pilot:
        view = host.view
        view.apply(UserMessage(naughty))
        view.add_shell(naughty, naughty, None)
        view.apply(ItemStarted(AgentMessageItem("a")))
        view.apply(ItemDelta("a", naughty))
        await drawn(pilot)
        view.apply(ItemCompleted(AgentMessageItem("a", naughty)))
        await pilot.resize_terminal(6, 5)
        await drawn(pilot)
        view.scroll_home(animate=False)
        await drawn(pilot)
        for y in range(view.size.height):
            strip = view.render_line(y)
            assert strip.cell_length == view.size.width
            assert strip.text.isprintable() or "\u200d" in naughty


@pytest.mark.parametrize("theme", ["dsv4-light", "dsv4-contrast", "ansi-dark", "nord"])
async def test_a_change_of_theme_repaints(host, make_session, theme) -> None:
    async with host.run_test(size=(60, 20)) as pilot:
        host.view.load(make_session(2))
        await drawn(pilot)
        before = host.view._sheet.frame.palette
        host.theme = theme
        await drawn(pilot)
        assert host.view._sheet.frame.palette != before
        assert any(screen(host.view))


async def test_contextupdated_and_the_like_add_nothing(host) -> None:
    async with host.run_test():
        host.view.apply(ContextUpdated.__new__(ContextUpdated))
        assert host.view.blocks == ()


async def test_going_back_takes_the_later_turns_away(host, make_session) -> None:
    async with host.run_test(size=(70, 20)) as pilot:
        host.view.load(make_session(1))
        await drawn(pilot)
        one = everything(host.view)
        host.view.clear()
        host.view.load(make_session(3))
        host.view.apply(UserMessage("by the way", steering=True))
        await drawn(pilot)
        host.view.apply(Rewound(1))
        await drawn(pilot)
        assert everything(host.view) == one
        host.view.apply(Compacted("all is well", 900, 90))
        host.view.apply(UserMessage("after"))
        host.view.apply(Rewound(0))
        await drawn(pilot)
        assert "900 tokens are now 90" in host.view.text(all=True)
        assert "after" not in host.view.text(all=True)
