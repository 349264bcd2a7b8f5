"""A real terminal: line editing by prompt-toolkit, below what has been printed and never above it."""

from __future__ import annotations

import asyncio
import contextlib
import termios
from collections.abc import Callable
from contextlib import ExitStack

from prompt_toolkit.completion import Completer
from prompt_toolkit.history import DummyHistory, History
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import clear_typeahead
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.shortcuts import CompleteStyle, PromptSession

from dsv4_agent.chat.drafts import SAVE_SECONDS, Draft, DraftStore
from dsv4_agent.plain.bindings import Actions, make_bindings
from dsv4_agent.plain.labels import INDENT, PROMPT, Label
from dsv4_agent.plain.pasting import Pastes
from dsv4_agent.plain.shown import Harmless
from dsv4_agent.plain.steady import SteadyOutput
from dsv4_agent.plain.terminal import Ask, Broken, Ended, Reading, Typed, Withdrawn


class KeyboardTerminal:
    """Raw from `open` to `close`: in between the kernel would turn Enter into the key for a line break."""

    echoes = True
    edits = True
    patient = False

    def __init__(
        self,
        source: Input,
        sink: SteadyOutput,
        *,
        history: History,
        completer: Completer,
        drafts: DraftStore,
        cycle_mode: Callable[[], None],
        tell: Callable[[Label, list[str]], None],
    ) -> None:
        """`tell` prints lines under a label: completions, or what is wrong with an editor."""
        self.ended = False
        self.lost: Exception | None = None
        self._source = source
        self._sink = sink
        self._drafts = drafts
        self._pastes = Pastes()
        self._stack = ExitStack()
        self._current: PromptSession[Reading] | None = None
        self._saving: asyncio.TimerHandle | None = None
        bindings = make_bindings(Actions(self._pastes, cycle_mode, tell))
        self._chat = self._session(bindings, history, completer)
        answering = make_bindings(Actions(Pastes(), cycle_mode, tell))
        self._question = self._session(answering, DummyHistory(), None)
        self._chat.default_buffer.on_text_changed += lambda _: self._keep_soon()

    def open(self) -> None:
        """Take the keys over."""
        self._stack.enter_context(self._source.raw_mode())

    def close(self) -> None:
        """Keep the draft and give the terminal back."""
        if self._saving is not None:
            self._saving.cancel()
            self._keep()
        if self.lost is None:
            with contextlib.suppress(OSError, ValueError):
                self._sink.release()
        self._stack.close()

    def write(self, text: str) -> None:
        """Print lines: the prompt makes room and is drawn again below them."""
        if self.lost is not None:
            return
        app = None if self._current is None else self._current.app
        try:
            if app is not None and app.is_running:
                app.renderer.erase()
            self._sink.write(text)
            self._sink.flush()
        except (OSError, ValueError) as error:
            self.lost = error
            return
        if app is not None and app.is_running:
            app.invalidate()

    async def read(self, ask: Ask) -> Reading:
        """Edit a text until Enter, Ctrl+C, Ctrl+D or `withdraw`."""
        session = self._question if ask.question else self._chat
        self._current = session
        session.app.erase_when_done = False
        # A prompt that was withdrawn in the middle of a search leaves the keys with the search.
        session.layout.search_links.clear()
        session.layout.focus(session.default_buffer)

        def prompt() -> str:
            # Without words of one's own there is nothing to hear while the agent works.
            return ask.prompt() or (PROMPT if session.default_buffer.text else "")

        try:
            reading = await session.prompt_async(
                prompt, default=ask.default, handle_sigint=False, set_exception_handler=False
            )
        except (EOFError, OSError, termios.error):
            self.ended = True
            return Ended()
        finally:
            self._current = None
        if not ask.question and isinstance(reading, Typed | Broken):
            self._forget_draft()
        return reading

    def load_draft(self) -> str:
        """What was left unsent the last time."""
        draft = self._drafts.load()
        self._pastes.restore(at_start=draft is not None and draft.pasted_start)
        return "" if draft is None else draft.text

    def refresh(self) -> None:
        """Draw the prompt anew."""
        if self._current is not None:
            self._current.app.invalidate()

    def withdraw(self) -> None:
        """Take the prompt off the screen; its text comes back from `read`."""
        if self._current is None:
            return
        app = self._current.app
        if app.is_running and not app.is_done:
            app.erase_when_done = True
            app.exit(result=Withdrawn(self._current.default_buffer.text))

    def break_line(self) -> None:
        """Keys don't echo here."""

    def drop_typed(self) -> int:
        """Forget keys that are read, keys on their way, and keys that the kernel holds."""
        clear_typeahead(self._source)
        while not self._source.closed and self._source.read_keys():
            pass
        self._source.flush_keys()
        with contextlib.suppress(termios.error, OSError, ValueError, NotImplementedError):
            termios.tcflush(self._source.fileno(), termios.TCIFLUSH)
        return 0

    def _session(
        self, bindings: KeyBindings, history: History, completer: Completer | None
    ) -> PromptSession[Reading]:
        return PromptSession(
            input=self._source,
            output=self._sink,
            multiline=True,
            prompt_continuation=INDENT,
            key_bindings=bindings,
            history=history,
            completer=completer,
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            reserve_space_for_menu=0,
            color_depth=ColorDepth.DEPTH_1_BIT,
            include_default_pygments_style=False,
            input_processors=[Harmless()],
            enable_suspend=True,
        )

    def _keep_soon(self) -> None:
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_SECONDS, self._keep)

    def _keep(self) -> None:
        self._saving = None
        text = self._chat.default_buffer.text
        self._drafts.save(Draft(text, pasted_start=self._pastes.begins(text)))

    def _forget_draft(self) -> None:
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        self._pastes.forget()
        self._drafts.clear()
