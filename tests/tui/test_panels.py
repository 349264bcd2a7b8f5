"""Panels in terminals of any size: what must be seen is seen, what is scrolled comes to its end."""

from __future__ import annotations

import pytest

from dsv4_agent.chat.outcomes import Option, Pick
from dsv4_agent.tui.app import ChatApp
from dsv4_agent.tui.panels.approval import ApprovalPanel
from dsv4_agent.tui.panels.page import PagePanel
from dsv4_agent.tui.panels.pick import PickPanel
from dsv4_agent.tui.panels.reading import Reading

LONG = "call: shell\n  command: echo " + "word " * 400 + "; rm -rf end\n---\ntext: Done."


def screen(app: ChatApp) -> str:
    """What the terminal shows."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def answers(shown: str) -> bool:
    """Whether the last of the answers is in view."""
    return "n no" in shown or "n  No" in shown or "›y  " in shown


@pytest.mark.parametrize("size", [(200, 60), (80, 24), (80, 20), (60, 19), (40, 12), (20, 6)])
async def test_a_question_shows_its_answers_and_all_of_the_command(driven, size: tuple[int, int]) -> None:
    async with driven(LONG, size=size) as chat:
        await chat.ready()
        await chat.say("go")
        panel = await chat.panel(ApprovalPanel)
        reading = chat.app.query_one(Reading)
        seen = set()
        for _ in range(400):
            await chat.until(lambda: answers(screen(chat.app)))
            await chat.until(lambda: panel.region.bottom <= size[1])
            await chat.pilot.pause()  # the rows are counted once the layout has settled
            top = round(reading.scroll_offset.y)
            seen |= set(range(top, top + reading.region.height))
            if not reading.hidden_below:
                break
            await chat.pilot.press("pagedown")
            await chat.pilot.pause()
        assert seen >= set(range(len(reading._rows)))
        text = "".join(row.text for row in reading._rows)
        assert "end" in text
        await chat.pilot.press("y")
        await chat.until(lambda: "Done." in chat.shown)


async def test_a_question_follows_the_terminal(driven) -> None:
    async with driven("call: shell\n  command: echo hello\n---\ntext: Done.", size=(80, 24)) as chat:
        await chat.ready()
        await chat.say("go")
        panel = await chat.panel(ApprovalPanel)
        assert not panel.has_class("-tight") and chat.app.composer.region
        await chat.pilot.resize_terminal(40, 12)
        await chat.until(lambda: panel.has_class("-tight"))
        await chat.until(lambda: "n no" in screen(chat.app))
        assert not chat.app.composer.region
        await chat.pilot.press("n")
        await chat.until(lambda: "Why not?" in screen(chat.app))
        await chat.pilot.press("escape")
        await chat.pilot.resize_terminal(80, 24)
        await chat.until(lambda: "No, and say why" in screen(chat.app))
        assert chat.app.composer.region


async def test_a_question_that_is_being_taken_away_can_still_be_laid_out(driven) -> None:
    async with driven("call: shell\n  command: echo hello\n---\ntext: Done.", size=(80, 24)) as chat:
        await chat.ready()
        await chat.say("go")
        panel = await chat.panel(ApprovalPanel)
        await panel.remove_children()
        panel.fit()
        panel._count_below()
        assert panel.get_content_height(chat.app.size, chat.app.size, 76) == 0
        await chat.pilot.press("y")
        await chat.until(lambda: "Done." in chat.shown)


@pytest.mark.parametrize("size", [(80, 24), (40, 12)])
async def test_the_end_of_a_page_can_be_read(driven, size: tuple[int, int]) -> None:
    async with driven(size=size) as chat:
        await chat.ready()
        await chat.say("/help")
        await chat.panel(PagePanel)
        await chat.pilot.press("end")
        await chat.pilot.pause()
        assert "stays on disk" in screen(chat.app)
        await chat.pilot.press("escape", "x")
        assert chat.app.composer.text == "x"


async def test_a_long_list_shows_what_is_typed_and_what_is_chosen(driven) -> None:
    options = tuple(Option(str(number), f"choice {number}") for number in range(40))
    async with driven() as chat:
        await chat.ready()
        chat.app.open_panel(PickPanel(Pick("Which?", options, "/x")))
        await chat.panel(PickPanel)
        for _ in range(20):
            await chat.pilot.press("down")
        await chat.pilot.pause()
        assert "choice 20" in screen(chat.app)
        await chat.pilot.press("3", "9")
        await chat.pilot.pause()
        shown = screen(chat.app)
        assert "39 " in shown and "choice 39" in shown
