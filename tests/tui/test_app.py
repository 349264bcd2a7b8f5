"""Every flow of the chat, by key presses, over the real loop and tools."""

from __future__ import annotations

import pytest

from dsv4_agent.chat.status import Phase
from dsv4_agent.permissions.decision import PermissionMode
from dsv4_agent.session.journal import JournalError
from dsv4_agent.tui.panels import arming
from dsv4_agent.tui.panels.approval import ApprovalPanel
from dsv4_agent.tui.panels.page import ConfirmPanel, PagePanel
from dsv4_agent.tui.panels.pick import PickPanel
from dsv4_agent.tui.panels.reading import Reading
from dsv4_agent.workbench.settings import Settings, load_settings

EDIT = "call: edit\n  path: app.py\n  old_string: old\n  new_string: new\n"
COMMAND = "call: shell\n  command: echo one; printf '\\033[2J'\n"


async def test_a_prompt_is_shown_answered_and_counted(driven) -> None:
    async with driven("think: Easy.\ntext: Hello *there*.") as chat:
        await chat.ask("hi")
        assert "hi" in chat.shown and "Hello *there*." in chat.shown
        line = str(chat.app.status_line.render())
        assert "ready" in line and "scripted" in line and "KV" in line
        assert chat.app.composer.text == ""


async def test_the_composer_works_before_the_model_is_there(driven) -> None:
    async with driven("text: Hello.") as chat:
        await chat.pilot.press("e", "a", "r", "l", "y", "enter")
        await chat.until(lambda: "Hello." in chat.shown)
        assert "early" in chat.shown


@pytest.mark.parametrize("key", ["y", "enter"])
async def test_an_edit_is_asked_about_and_done(driven, key: str) -> None:
    async with driven(f"{EDIT}---\ntext: Done.") as chat:
        await chat.ready()
        await chat.say("go")
        panel = await chat.panel(ApprovalPanel)
        assert "app.py" in str(panel.border_title)
        rows = [row.text for row in chat.app.query_one(Reading)._rows]
        assert "old = 1" in rows and "new = 1" in rows
        assert (chat.workspace / "app.py").read_text() == "old = 1\n"
        await chat.pilot.press(key)
        await chat.until(lambda: "Done." in chat.shown)
        assert (chat.workspace / "app.py").read_text() == "new = 1\n"
        assert not chat.app.query(ApprovalPanel)
        await chat.pilot.press("x")
        assert chat.app.composer.text == "x"


async def test_keys_typed_ahead_approve_nothing(driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arming, "QUIET", 3600.0)
    async with driven(f"{EDIT}---\ntext: Done.") as chat:
        await chat.ready()
        await chat.say("go")
        await chat.panel(ApprovalPanel)
        await chat.pilot.press("y", "y", "enter", "s", "a", "n")
        await chat.pilot.pause(0.1)
        assert chat.app.query(ApprovalPanel)
        assert chat.app.dialogue.status.phase is Phase.ASKING
        assert (chat.workspace / "app.py").read_text() == "old = 1\n"


async def test_a_text_typed_over_a_question_approves_nothing(driven, monkeypatch: pytest.MonkeyPatch) -> None:
    async with driven(f"{EDIT}---\ntext: Done.") as chat:
        await chat.ready()
        await chat.say("go")
        await chat.panel(ApprovalPanel)
        await chat.pilot.press("/")
        monkeypatch.setattr(arming, "QUIET", 3600.0)
        await chat.pilot.press("d", "y", "enter")
        await chat.pilot.pause(0.1)
        assert chat.app.query(ApprovalPanel)
        assert (chat.workspace / "app.py").read_text() == "old = 1\n"
        monkeypatch.setattr(arming, "QUIET", 0.0)
        await chat.pilot.press("y")
        await chat.until(lambda: "Done." in chat.shown)


async def test_a_refusal_takes_a_reason(driven) -> None:
    async with driven(f"{EDIT}---\ntext: I see.") as chat:
        await chat.ready()
        await chat.say("go")
        await chat.panel(ApprovalPanel)
        await chat.pilot.press("n", *"no", "space", *"way", "enter")
        await chat.until(lambda: "I see." in chat.shown)
        assert "the user refused it: no way" in chat.shown
        assert (chat.workspace / "app.py").read_text() == "old = 1\n"


async def test_a_session_s_yes_asks_no_more_and_a_command_is_shown_escaped(driven) -> None:
    async with driven(f"{COMMAND}---\ntext: Done.") as chat:
        await chat.ready()
        await chat.say("go")
        await chat.panel(ApprovalPanel)
        rows = "".join(row.text for row in chat.app.query_one(Reading)._rows)
        assert "echo one; printf '\\033[2J'" in rows
        await chat.pilot.press("down", "enter")
        await chat.until(lambda: "Done." in chat.shown)
        assert "\x1b" not in chat.shown


async def test_escape_stops_the_agent_and_the_chat_goes_on(driven) -> None:
    async with driven("delay: 30\ntext: Never.\n---\ntext: After.") as chat:
        await chat.ready()
        await chat.say("go")
        await chat.until(lambda: chat.app.dialogue.status.busy)
        await chat.pilot.press("escape")
        await chat.ready()
        assert "interrupted" in chat.shown
        await chat.ask("again")
        assert "After." in chat.shown


async def test_what_is_said_meanwhile_is_shown_as_queued_then_read(driven) -> None:
    async with driven("call: read\n  path: app.py\ndelay: 0.5\n---\ntext: Both.") as chat:
        await chat.ready()
        await chat.say("first")
        await chat.until(lambda: chat.app.dialogue.status.busy)
        await chat.say("second")
        await chat.until(lambda: "queued: second" in str(chat.app.query_one("#queue").render()))
        await chat.until(lambda: "Both." in chat.shown)
        assert chat.shown.index("first") < chat.shown.index("second") < chat.shown.index("Both.")
        await chat.until(lambda: not chat.app.query_one("#queue").has_class("-on"))


async def test_escape_twice_goes_back_to_an_earlier_prompt(driven) -> None:
    async with driven("text: One.\n---\ntext: Two.") as chat:
        await chat.ask("first")
        await chat.ask("second")
        await chat.pilot.press("escape", "escape")
        await chat.panel(PickPanel)
        await chat.pilot.press("enter")
        await chat.until(lambda: chat.app.composer.text == "second")
        await chat.until(lambda: "Two." not in chat.shown)
        assert "One." in chat.shown


@pytest.mark.parametrize("line", ["/help", "/keys", "/context", "/doctor"])
async def test_pages_open_and_close(driven, line: str) -> None:
    async with driven() as chat:
        await chat.ask("hi")
        await chat.say(line)
        await chat.panel(PagePanel)
        await chat.pilot.press("pagedown", "end", "home", "escape")
        await chat.until(lambda: not chat.app.query(PagePanel))
        await chat.pilot.press("x")
        assert chat.app.composer.text == "x"


async def test_a_question_mark_helps(driven) -> None:
    async with driven() as chat:
        await chat.pilot.press("question_mark")
        await chat.panel(PagePanel)


async def test_diff_and_undo(driven) -> None:
    script = f"{EDIT}---\ntext: Done."
    async with driven(script, permission_mode=PermissionMode.ACCEPT_EDITS) as chat:
        await chat.ask("go")
        await chat.say("/diff")
        await chat.panel(PagePanel)
        rows = [row.text for row in chat.app.query_one(Reading)._rows]
        assert rows[0] == "app.py" and "new = 1" in rows
        await chat.pilot.press("escape")
        await chat.say("/undo")
        await chat.until(lambda: "put back: app.py" in chat.shown)
        assert (chat.workspace / "app.py").read_text() == "old = 1\n"


async def test_the_mode_is_cycled_and_holds_from_the_next_call(driven) -> None:
    async with driven(f"{EDIT}---\ntext: Done.") as chat:
        await chat.ready()
        await chat.pilot.press("shift+tab")
        assert chat.app.dialogue.status.mode == "accept-edits"
        await chat.ask("go")
        assert (chat.workspace / "app.py").read_text() == "new = 1\n"
        await chat.pilot.press("shift+tab", "shift+tab", "shift+tab")
        assert chat.app.dialogue.status.mode == "default"


async def test_a_text_being_written_carries_out_no_plan(driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arming, "QUIET", 3600.0)
    async with driven("text: The plan.", permission_mode=PermissionMode.PLAN) as chat:
        await chat.ready()
        await chat.say("plan it")
        await chat.panel(PickPanel)
        await chat.pilot.press("b", "u", "t", "down", "enter")
        await chat.pilot.pause(0.1)
        assert chat.app.query(PickPanel)
        assert chat.app.dialogue.status.mode == "plan" and "Carry out" not in chat.shown
        monkeypatch.setattr(arming, "QUIET", 0.0)
        await chat.pilot.press("escape")
        await chat.until(lambda: not chat.app.query(PickPanel))


async def test_a_plan_is_carried_out_after_a_yes(driven) -> None:
    script = f"text: The plan.\n---\n{EDIT}---\ntext: Done."
    async with driven(script, permission_mode=PermissionMode.PLAN) as chat:
        await chat.ready()
        await chat.say("plan it")
        await chat.panel(PickPanel)
        assert (chat.workspace / "app.py").read_text() == "old = 1\n"
        await chat.pilot.press("down", "enter")
        await chat.until(lambda: "Done." in chat.shown)
        assert chat.app.dialogue.status.mode == "accept-edits"
        assert (chat.workspace / "app.py").read_text() == "new = 1\n"


async def test_another_effort_says_its_price_and_asks(driven) -> None:
    async with driven("text: One.\n---\ntext: Two.") as chat:
        await chat.ask("first")
        await chat.say("/effort max")
        await chat.panel(ConfirmPanel)
        await chat.pilot.press("y")
        await chat.until(lambda: chat.app.dialogue.status.effort == "max")
        await chat.until(lambda: "effort is now max" in chat.shown)
        assert "cached tokens are computed again" in chat.shown


async def test_a_new_conversation_and_back_to_the_old_one(driven) -> None:
    async with driven("text: One.\n---\ntext: Two.") as chat:
        await chat.ask("first")
        await chat.say("/rename The first")
        await chat.say("/new")
        await chat.until(lambda: "One." not in chat.shown)
        await chat.ready()
        await chat.say("/sessions")
        await chat.panel(PickPanel)
        await chat.pilot.press("enter")
        await chat.until(lambda: "One." in chat.shown)
        await chat.ask("second")
        assert "Two." in chat.shown


async def test_a_shell_line_and_its_output(driven) -> None:
    async with driven("text: Seen.") as chat:
        await chat.ready()
        await chat.say("!echo from-me")
        await chat.until(lambda: "from-me\n" in chat.shown)
        await chat.ask("what was that?")


async def test_a_theme_is_chosen_and_kept(driven) -> None:
    async with driven() as chat:
        await chat.ready()
        await chat.say("/theme")
        await chat.panel(PickPanel)
        await chat.pilot.press("down", "enter")
        await chat.until(lambda: chat.app.theme == "dsv4-light")
        assert load_settings().theme == "dsv4-light"


async def test_settings_shape_the_app(driven) -> None:
    settings = Settings(theme="dsv4-contrast", reduced_motion=True, keys={"app.cycle_mode": "f2"})
    async with driven(settings=settings) as chat:
        assert chat.app.theme == "dsv4-contrast"
        assert chat.app.status_line.still
        await chat.pilot.press("f2")
        assert chat.app.dialogue.status.mode == "accept-edits"


async def test_ctrl_r_folds_thinking_and_ctrl_o_unfolds_output(driven) -> None:
    async with driven("think: Deep.\ntext: Yes.") as chat:
        await chat.ask("hm")
        await chat.pilot.press("ctrl+r")
        assert chat.app.transcript.thinking_shown
        before = chat.app.transcript.detail
        await chat.pilot.press("ctrl+o")
        assert chat.app.transcript.detail is not before


async def test_ctrl_c_twice_leaves(driven) -> None:
    async with driven() as chat:
        await chat.ready()
        await chat.pilot.press("ctrl+c")
        assert "press Ctrl+C again" in chat.shown
        await chat.pilot.press("ctrl+c")
        await chat.pilot.pause()
        assert not chat.app.is_running or chat.app._exit


async def test_an_unknown_command_and_a_missing_model_are_said(driven) -> None:
    async with driven() as chat:
        await chat.ready()
        await chat.say("/nonsense")
        await chat.until(lambda: "there is no command /nonsense" in chat.shown)
        await chat.say("/model nowhere")
        await chat.until(lambda: "there is no model 'nowhere'" in chat.shown)
        await chat.ask("still there?")
        assert "Hello." in chat.shown


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (30, 10), (20, 6)])
async def test_any_size_shows_something_and_breaks_nothing(driven, size: tuple[int, int]) -> None:
    async with driven(f"{EDIT}---\ntext: Done.", size=size) as chat:
        await chat.ready()
        await chat.say("go")
        await chat.panel(ApprovalPanel)
        await chat.pilot.resize_terminal(100, 30)
        await chat.pilot.resize_terminal(*size)
        await chat.pilot.press("y")
        await chat.until(lambda: "Done." in chat.shown)


async def test_a_crash_shows_no_values(driven, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "sk-secret-value"
    with pytest.raises(ZeroDivisionError):
        async with driven() as chat:

            def broken() -> None:
                held = secret
                print(1 / (len(held) - len(held)))

            chat.app.call_later(broken)
            await chat.pilot.pause(0.2)
    said = capsys.readouterr().err
    assert secret not in said
    assert "internal error (ZeroDivisionError)" in said


async def test_a_page_opened_over_a_question_gives_it_back(driven) -> None:
    async with driven(f"{EDIT}---\ntext: Done.") as chat:
        await chat.ready()
        await chat.say("go")
        await chat.panel(ApprovalPanel)
        chat.app.run_line("/help")
        await chat.panel(PagePanel)
        await chat.pilot.press("escape")
        await chat.panel(ApprovalPanel)
        await chat.pilot.press("y")
        await chat.until(lambda: "Done." in chat.shown)
        assert not chat.app.query(ApprovalPanel)
        assert (chat.workspace / "app.py").read_text() == "new = 1\n"


async def test_a_full_disk_is_said_and_the_chat_stays(driven, monkeypatch: pytest.MonkeyPatch) -> None:
    async with driven("text: One.") as chat:
        await chat.ask("first")

        def refuse(*_: object, **__: object) -> int:
            raise JournalError("the session journal can't be written: No space left on device")

        monkeypatch.setattr("dsv4_agent.session.journal.Journal.write", refuse)
        for line in ("/rename other", "/rewind 0"):
            await chat.say(line)
            await chat.until(lambda: "No space left on device" in chat.shown)
        assert chat.app.is_running


async def test_what_is_queued_can_be_taken_back_into_the_box(driven) -> None:
    async with driven("delay: 1\ntext: Only this.") as chat:
        await chat.ready()
        await chat.say("first")
        await chat.until(lambda: chat.app.dialogue._running)
        await chat.say("second")
        await chat.until(lambda: chat.app.dialogue.pending == ["second"])
        await chat.say("/unsay")
        await chat.until(lambda: chat.app.composer.text == "second")
        assert chat.app.dialogue.pending == []
        await chat.until(lambda: "Only this." in chat.shown)
