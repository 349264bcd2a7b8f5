"""The Textual app: it shows the events of a dialogue and sends it intents; it decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import time
from collections.abc import Coroutine
from typing import ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.filter import Monochrome
from textual.widget import Widget
from textual.widgets import Static

from dsv4_agent.chat.dialogue import Choice, Dialogue
from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.chat.status import Phase
from dsv4_agent.permissions.decision import PermissionMode
from dsv4_agent.tui.composer import messages
from dsv4_agent.tui.composer.composer import Composer
from dsv4_agent.tui.no_color import Colourless
from dsv4_agent.tui.panels.approval import ApprovalPanel
from dsv4_agent.tui.panels.fitted import LOW
from dsv4_agent.tui.panels.page import ConfirmPanel, PagePanel
from dsv4_agent.tui.panels.pick import PickPanel
from dsv4_agent.tui.showing import Showing
from dsv4_agent.tui.status_line import StatusLine
from dsv4_agent.tui.terminal_output import mend_terminal_output
from dsv4_agent.tui.theme import DARK, THEMES
from dsv4_agent.tui.transcript.view import TranscriptView
from dsv4_agent.version import __version__
from dsv4_agent.workbench.plain_text import plain_line
from dsv4_agent.workbench.settings import Settings

_TWICE = 1.0
"""Seconds within which a second Escape or Ctrl+C means something else than one."""
_CYCLE = (PermissionMode.DEFAULT, PermissionMode.ACCEPT_EDITS, PermissionMode.AUTO, PermissionMode.PLAN)

mend_terminal_output()


class ChatApp(App[None]):
    """`dsv4 chat`. Paints and takes keys before the model is there."""

    TITLE = "dsv4"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: $background; }
    #transcript { height: 1fr; }
    #below { height: 1; padding: 0 1; color: $primary; display: none; }
    #below.-on { display: block; }
    #queue { height: auto; max-height: 4; padding: 0 1; color: $text-muted; display: none; }
    #queue.-on { display: block; }
    #panel { height: auto; }
    #queue.-away, #composer.-away { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "escape", "Interrupt", id="app.interrupt", show=False),
        Binding("ctrl+c", "copy_or_leave", "Copy, interrupt, leave", id="app.leave", show=False),
        Binding("ctrl+d", "leave", "Leave", id="app.quit", show=False),
        Binding("ctrl+q", "leave", "Leave", id="app.quit_now", show=False, priority=True),
        Binding("shift+tab", "cycle_mode", "Permission mode", id="app.cycle_mode", show=False, priority=True),
        Binding("ctrl+o", "cycle_detail", "Detail", id="app.cycle_detail", show=False, priority=True),
        Binding("ctrl+r", "thinking", "Thinking", id="app.thinking", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", "Suspend", id="app.suspend", show=False, priority=True),
        Binding("ctrl+l", "redraw", "Redraw", id="app.redraw", show=False, priority=True),
        Binding("pageup", "transcript('page_up')", "Scroll up", id="app.page_up", show=False),
        Binding("pagedown", "transcript('page_down')", "Scroll down", id="app.page_down", show=False),
        Binding("shift+up", "transcript('scroll_up')", id="app.line_up", show=False),
        Binding("shift+down", "transcript('scroll_down')", id="app.line_down", show=False),
        Binding("ctrl+end", "transcript('scroll_end')", id="app.end", show=False),
    ]

    def __init__(self, options: ChatOptions, settings: Settings | None = None) -> None:
        super().__init__()
        if self.no_color:
            self._filters = [kept for kept in self._filters if not isinstance(kept, Monochrome)]
            self._filters.append(Colourless())
        self.settings = settings or Settings()
        self.dialogue = Dialogue(options)
        self._options = options
        self.greeting_folder = str(options.directory.resolve())
        self._showing = Showing(self)
        self._pressed: dict[str, float] = {}
        self._queued = ""
        self._panel: Widget | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def compose(self) -> ComposeResult:
        yield TranscriptView(id="transcript")
        yield Static("", id="below", markup=False)
        yield Vertical(id="panel")
        yield Static("", id="queue", markup=False)
        yield Composer(self._options.directory, complete_argument=self._complete, id="composer")
        yield StatusLine(self.dialogue.status)

    def on_mount(self) -> None:
        for theme in THEMES:
            self.register_theme(theme)
        names = {theme.name for theme in THEMES}
        wanted = self.settings.theme or DARK.name
        self.theme = wanted if wanted in names else DARK.name
        if self.settings.reduced_motion:
            self.animation_level = "none"
            self.status_line.still = True
        if self.settings.keys:
            self.set_keymap(dict(self.settings.keys))
        folder = plain_line(self.greeting_folder, 200)
        hello = f"dsv4 {__version__} in {folder}. Ask for something; ? shows what you can do."
        self.transcript.add_notice("info", hello)
        self.composer.focus()
        # Opening the model competes with this thread for the interpreter: first the first picture.
        self.call_after_refresh(self._begin)

    @property
    def transcript(self) -> TranscriptView:
        """The transcript."""
        return self.query_one(TranscriptView)

    @property
    def composer(self) -> Composer:
        """The input box."""
        return self.query_one(Composer)

    @property
    def status_line(self) -> StatusLine:
        """The line at the bottom."""
        return self.query_one(StatusLine)

    # -- the dialogue ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        # A terminal that goes away, or a request to end: leave as a person would, with everything on disk.
        for number in (signal.SIGHUP, signal.SIGTERM):
            with contextlib.suppress(ValueError, NotImplementedError):  # not in the main thread, as in tests
                leave = functools.partial(self.exit, return_code=128 + number)
                asyncio.get_running_loop().add_signal_handler(number, leave)
        self.composer.set_commands(self._showing.listing())
        self._spawn(self.dialogue.run())
        self._spawn(self._follow())

    async def _follow(self) -> None:
        async for event in self.dialogue.events():
            self._showing.show(event)
            self.after_event()

    def after_event(self) -> None:
        """Bring what stands beside the transcript up to date."""
        self.status_line.refresh()
        self.composer.set_busy(self.dialogue.status.busy)
        waiting = self.dialogue.pending if self.dialogue.status.busy else ()
        text = "\n".join(f"queued: {plain_line(text, 120)}" for text in waiting)
        if text != self._queued:  # an update lays the whole screen out, and events come by the hundred
            self._queued = text
            queue = self.query_one("#queue", Static)
            queue.update(Content(text))
            queue.set_class(bool(text), "-on")

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and isinstance(error, Exception):
            self._handle_exception(error)

    async def on_unmount(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait(tasks, timeout=5)

    # -- what the person does ----------------------------------------------------------------------------

    @on(messages.Submitted)
    def _say(self, event: messages.Submitted) -> None:
        self._spawn(self._submit(event.text, event.shown))

    async def _submit(self, text: str, typed: str) -> None:
        await self.dialogue.submit(text, typed)
        self.after_event()

    @on(messages.ShellSubmitted)
    def _shell(self, event: messages.ShellSubmitted) -> None:
        self.dialogue.shell(event.command)

    @on(messages.CommandSubmitted)
    def _command(self, event: messages.CommandSubmitted) -> None:
        self.run_line(event.line)

    @on(messages.Edited)
    def _maybe_help(self) -> None:
        if self.composer.text == "?":
            self.composer.replace_text("")
            self.run_line("/help")

    def run_line(self, line: str) -> None:
        """Run a command line and show what comes of it."""
        self._spawn(self._showing.run_line(line))

    def _complete(self, command: str, prefix: str) -> list[str]:
        return self._showing.complete(command, prefix)

    @on(ApprovalPanel.Decided)
    def _decided(self, event: ApprovalPanel.Decided) -> None:
        self._showing.decided(event.id, event.choice, event.reason)
        self.after_event()

    @on(ApprovalPanel.Stopped)
    def _stopped(self) -> None:
        self.dialogue.interrupt()
        self.after_event()

    @on(PickPanel.Picked)
    @on(ConfirmPanel.Confirmed)
    def _chosen(self, event: PickPanel.Picked | ConfirmPanel.Confirmed) -> None:
        self.close_panel()
        self.run_line(event.line)

    @on(PickPanel.Dismissed)
    @on(ConfirmPanel.Declined)
    @on(PagePanel.Closed)
    def _dismissed(self) -> None:
        self.close_panel()

    @on(TranscriptView.PositionChanged)
    def _position(self, event: TranscriptView.PositionChanged) -> None:
        below = self.query_one("#below", Static)
        below.set_class(not event.follow, "-on")
        below.update(Content(f"↓ {event.lines_below} more rows (Ctrl+End)"))

    # -- actions -----------------------------------------------------------------------------------------

    def action_escape(self) -> None:
        if self.dialogue.interrupt():
            self.after_event()
        elif self._is_second("escape"):
            self.run_line("/rewind")

    def action_copy_or_leave(self) -> None:
        if text := self.screen.get_selected_text():
            self.copy_to_clipboard(text)
            self.screen.clear_selection()
        elif not self.dialogue.interrupt():
            if self._is_second("ctrl+c"):
                self.exit()
            else:
                self._showing.say("info", "press Ctrl+C again to leave; the session stays on disk")

    def action_leave(self) -> None:
        self.exit()

    def action_cycle_mode(self) -> None:
        mode = PermissionMode(self.dialogue.status.mode)
        following = _CYCLE[(_CYCLE.index(mode) + 1) % len(_CYCLE)] if mode in _CYCLE else _CYCLE[0]
        self.dialogue.set_mode(following)
        self.after_event()

    def action_cycle_detail(self) -> None:
        self.transcript.cycle_detail()

    def action_thinking(self) -> None:
        if self.composer.in_history:
            self.composer.action_history_search()
        else:
            self.transcript.toggle_thinking()

    def action_transcript(self, action: str) -> None:
        getattr(self.transcript, f"action_{action}")()

    def action_redraw(self) -> None:
        self.refresh(layout=True)

    def answer(self, id: str, choice: Choice, reason: str = "") -> None:
        """Pass a person's answer on."""
        self.dialogue.answer(id, choice, reason)
        if self.dialogue.status.phase is Phase.ASKING:
            self.dialogue.status.enter(Phase.WORKING)
        self.after_event()

    def _is_second(self, key: str) -> bool:
        now = time.monotonic()
        second = now - self._pressed.get(key, float("-inf")) < _TWICE
        self._pressed[key] = float("-inf") if second else now
        return second

    def on_resize(self) -> None:
        """Lay out anew what depends on the terminal's size by more than its style."""
        self.call_later(self._fit)  # the size is only now becoming the app's

    def _fit(self) -> None:
        self._make_room()
        for panel in self.query(ApprovalPanel):
            panel.fit()

    # -- panels ------------------------------------------------------------------------------------------

    def open_panel(self, panel: Widget) -> None:
        """Put a panel between transcript and composer; it takes the keyboard."""
        holder = self.query_one("#panel", Vertical)
        holder.remove_children()
        holder.mount(panel)
        self._panel = panel
        self._make_room()
        if panel.can_focus:
            panel.focus()

    def close_panel(self) -> None:
        """Give the room and the keyboard back, or to the question that still waits for its answer."""
        self.query_one("#panel", Vertical).remove_children()
        self._panel = None
        self._make_room()
        self.composer.focus()
        self._showing.ask_again()

    def _make_room(self) -> None:
        # A panel holds the keyboard: in a low terminal it gets the composer's rows too.
        for below in ("#queue", "#composer"):
            self.query_one(below).set_class(self._panel is not None and self.size.height < LOW, "-away")

    # -- the end -----------------------------------------------------------------------------------------

    def _fatal_error(self) -> None:
        # Textual's own screen prints the values of variables.
        from dsv4_agent.tui.crash import farewell

        error = self._exception or RuntimeError("unknown")
        self._exit_renderables.append(farewell(error))
        self._close_messages_no_wait()
