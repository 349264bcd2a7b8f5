"""How the app shows what a dialogue tells and what a command asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsv4_agent.chat import outcomes as out
from dsv4_agent.chat.dialogue import Choice
from dsv4_agent.chat.events import ChatEvent, Opened, PlanReady, ShellRan
from dsv4_agent.loop.events import ApprovalRequested, Init, ItemCompleted, PermissionDenied, RunResult

if TYPE_CHECKING:
    from dsv4_agent.chat.commands import Commands
    from dsv4_agent.tui.app import ChatApp


class Showing:
    """Between the dialogue and the widgets. Panels are imported when one is needed."""

    def __init__(self, app: ChatApp) -> None:
        self._app = app
        self._commands: Commands | None = None
        self._question: ApprovalRequested | None = None

    # -- events ------------------------------------------------------------------------------------------

    def show(self, event: ChatEvent) -> None:
        """Show one event."""
        app = self._app
        match event:
            case ShellRan():
                app.transcript.add_shell(event.command, event.output, event.exit_code)
            case Opened(events=events):
                app.transcript.clear()
                app.transcript.load(events)
                if not events:
                    self.say("info", "a new conversation; /resume goes back to an earlier one")
            case PlanReady():
                self._ask_for_the_plan()
            case ApprovalRequested():
                self._ask(event)
            case Init():
                pass
            case _:
                app.transcript.apply(event)
                if self._question is not None and _settles(event, self._question.id):
                    self._question = None
                    app.close_panel()

    def say(self, kind: str, text: str) -> None:
        """A line of the app's own."""
        self._app.transcript.add_notice(kind, text)

    def ask_again(self) -> None:
        """Something else was opened over a question: it comes back, or the agent would wait for ever."""
        if self._question is not None:
            self._ask(self._question)

    def _ask(self, question: ApprovalRequested) -> None:
        from dsv4_agent.chat.standing_rules import in_words, rules_for
        from dsv4_agent.tui.panels.approval import ApprovalPanel

        rules = rules_for(question.tool, question.input)
        self._question = question
        app = self._app
        panel = ApprovalPanel(question, in_words(rules))
        app.open_panel(panel)
        app.bell()

    def decided(self, id: str, choice: Choice, reason: str) -> None:
        """A panel's answer."""
        if self._question is not None and self._question.id == id:
            self._question = None
        self._app.close_panel()
        self._app.answer(id, choice, reason)

    def _ask_for_the_plan(self) -> None:
        options = (
            out.Option("default", "Carry it out, asking before each change"),
            out.Option("accept-edits", "Carry it out, edits without asking"),
            out.Option("plan", "Keep planning"),
        )
        from dsv4_agent.tui.panels.pick import PickPanel

        pick = out.Pick("Carry out this plan?", options, "/carry-out")
        self._app.open_panel(PickPanel(pick, unasked=True))

    # -- commands ----------------------------------------------------------------------------------------

    def complete(self, command: str, prefix: str) -> list[str]:
        """Arguments of a command."""
        return self._known().complete(command, prefix)

    def listing(self) -> list[tuple[str, str]]:
        """The commands, for the composer."""
        return self._known().listing()

    async def run_line(self, line: str) -> None:
        """Run a command line and show its outcomes."""
        if line.startswith("/carry-out "):
            await self._carry_out(line.removeprefix("/carry-out "))
            return
        for outcome in await self._known().run(line):
            self._show(outcome)
        self._app.after_event()

    def _known(self) -> Commands:
        if self._commands is None:
            from dsv4_agent.chat.commands import Commands
            from dsv4_agent.tui.guide import KEYS

            self._commands = Commands(self._app.dialogue, KEYS)
        return self._commands

    async def _carry_out(self, mode: str) -> None:
        from dsv4_agent.permissions.decision import PermissionMode

        app = self._app
        if mode == PermissionMode.PLAN.value:
            self.say("info", "still planning: say what the plan should be instead")
            return
        app.dialogue.set_mode(PermissionMode(mode))
        await app.dialogue.submit("Carry out the plan.")
        app.after_event()

    def _show(self, outcome: out.Outcome) -> None:
        app = self._app
        match outcome:
            case out.Say(kind=kind, text=text):
                self.say(kind, text)
            case out.Page(title=title, text=text):
                from dsv4_agent.tui.panels.page import PagePanel
                from dsv4_agent.tui.panels.reading import text_of

                app.open_panel(PagePanel(title, text_of(text)))
            case out.Patch(title=title, text=text):
                from dsv4_agent.tui.panels.page import PagePanel
                from dsv4_agent.tui.panels.reading import patch_of

                app.open_panel(PagePanel(title, patch_of(text)))
            case out.Pick():
                from dsv4_agent.tui.panels.pick import PickPanel

                app.open_panel(PickPanel(outcome))
            case out.Confirm(question=question, command=command):
                from dsv4_agent.tui.panels.page import ConfirmPanel

                app.open_panel(ConfirmPanel(question, command))
            case out.Fill(text=text):
                app.composer.replace_text(text)
                app.composer.focus()
            case out.Copy(text=text):
                app.copy_to_clipboard(text)
                self.say("info", f"copied {len(text):,} characters")
            case out.UseTheme(name=name):
                self._use_theme(name)
            case out.Quit():
                app.exit()

    def _use_theme(self, name: str) -> None:
        from dsv4_agent.workbench.settings import SettingsError, save_theme

        self._app.theme = name
        try:
            save_theme(name)
        except SettingsError as error:
            self.say("warning", f"the theme holds until you leave: {error}")


def _settles(event: ChatEvent, question: str) -> bool:
    """Whether nobody waits for the answer to `question` any more."""
    match event:
        case ItemCompleted(item=item):
            return item.id == question
        case PermissionDenied() | RunResult():
            return True
    return False
