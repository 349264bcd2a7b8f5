"""Prompt-toolkit's side: keys, pastes, the queue, what was typed before a question."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input

from dsv4_agent.chat.commands import COMMANDS
from dsv4_agent.chat.drafts import DraftStore
from dsv4_agent.chat.history import History
from dsv4_agent.chat.mentions import MentionIndex
from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.plain.app import chat
from dsv4_agent.plain.completion import ChatCompleter
from dsv4_agent.plain.keyboard import KeyboardTerminal
from dsv4_agent.plain.parts import Parts
from dsv4_agent.plain.past import Past
from dsv4_agent.plain.steady import SteadyOutput
from dsv4_agent.workbench.model_options import ModelOptions

EDIT = "call: edit\n  path: app.py\n  old_string: old\n  new_string: new\n"


class Keys:
    """A chat at whose keys a test sits. `lines` is what was printed, without the drawing of prompts."""

    def __init__(self, source: PipeInput, root: Path) -> None:
        self._source = source
        self._root = root
        self.screen = io.StringIO()
        self.lines = ""
        self._seen = 0

    def make(self, parts: Parts) -> KeyboardTerminal:
        output = SteadyOutput(self.screen, lambda: Size(rows=24, columns=80), term="xterm", enable_cpr=False)
        terminal = KeyboardTerminal(
            self._source,
            output,
            history=Past(History(self._root)),
            completer=ChatCompleter([c.name for c in COMMANDS], parts.complete, MentionIndex(self._root)),
            drafts=DraftStore(self._root),
            cycle_mode=parts.cycle_mode,
            tell=parts.tell,
        )
        write = terminal.write

        def recorded(text: str) -> None:
            self.lines += text
            write(text)

        terminal.write = recorded  # type: ignore[method-assign]
        return terminal

    def press(self, keys: str) -> None:
        self._source.send_text(keys)

    async def until(self, wanted: str) -> None:
        await self.when(lambda: self.lines.find(wanted, self._seen) >= 0, wanted)
        self._seen = self.lines.index(wanted, self._seen) + len(wanted)

    async def drawn(self, wanted: str) -> None:
        await self.when(lambda: wanted in self.screen.getvalue(), wanted)

    async def when(self, true: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(60):
                while not true():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{what!r} did not come:\n{self.lines}") from None


@asynccontextmanager
async def keys_for(script: str, workspace: Path) -> AsyncIterator[Keys]:
    file = workspace.parent / "script.txt"
    file.write_text(script)
    options = ChatOptions(directory=workspace, model=ModelOptions(name=f"scripted:{file}"))
    with create_pipe_input() as source:
        keys = Keys(source, workspace)
        task = asyncio.create_task(chat(options, make_terminal=keys.make))
        await keys.until("Ready.")
        yield keys
        async with asyncio.timeout(60):
            while not task.done():
                keys.press("\x03")
                await asyncio.sleep(0.1)
        assert task.result() == 0


async def test_line_breaks_and_pastes_submit_nothing(workspace: Path) -> None:
    async with keys_for("text: Read.", workspace) as keys:
        keys.press("one\ntwo\x1b\rthree\\\r")
        keys.press("\x1b[200~/quit\r\n!false\x1b]52;c;x\x07\u202e\r\x1b[201~")
        keys.press("\r")
        await keys.until("Answer: Read.")
        from dsv4_agent.session.store import list_sessions

        history = History(workspace).browse()
        assert history[0] == "one\ntwo\nthree\n/quit\n!false]52;c;x\n"
        assert list_sessions()
        assert "\x1b]52" not in keys.screen.getvalue() and "\u202e" not in keys.screen.getvalue()


async def test_a_paste_at_the_start_is_no_command(workspace: Path) -> None:
    async with keys_for("text: Read.", workspace) as keys:
        keys.press("\x1b[200~!touch made\x1b[201~\r")
        await keys.until("Answer: Read.")
        assert not (workspace / "made").exists()
        keys.press("!touch mine\r")
        await keys.until("Shell: touch mine, exit 0")


async def test_keys_before_a_question_do_not_answer_it_and_a_half_written_prompt_comes_back(
    workspace: Path,
) -> None:
    async with keys_for(f"delay: 0.7\n{EDIT}---\ntext: Done.\n---\ntext: Next.", workspace) as keys:
        keys.press("go\r")
        await keys.drawn("go")
        keys.press("half a thought")
        await keys.until("Question: may this edit be made?")
        await keys.drawn("Allow?")
        assert (workspace / "app.py").read_text() == "old = 1\n"
        keys.press("y\r")
        await keys.until("Edit: app.py, 1 added, 1 removed")
        await keys.until("Ready.")
        keys.press(" that goes on\r")
        await keys.until("Answer: Next.")
        assert History(workspace).browse()[0] == "half a thought that goes on"


async def test_what_is_said_meanwhile_is_printed_when_it_is_read(workspace: Path) -> None:
    async with keys_for("delay: 1\ntext: One.\n---\ntext: Two.", workspace) as keys:
        keys.press("first\r")
        await keys.drawn("first")
        await asyncio.sleep(0.1)
        keys.press("second\r")
        await keys.until("Notice: the agent reads this as soon as it can.")
        await keys.until("You: second\n")
        await keys.until("Answer: Two.")
        assert "You: first" not in keys.lines


async def test_ctrl_c_at_a_question_stops_the_turn(workspace: Path) -> None:
    async with keys_for(f"{EDIT}---\ntext: Never.", workspace) as keys:
        keys.press("go\r")
        await keys.drawn("Allow?")
        keys.press("\x03")
        await keys.until("Interrupted.")
        await keys.until("Ready.")
        assert (workspace / "app.py").read_text() == "old = 1\n"


async def test_ctrl_d_at_a_question_is_a_no(workspace: Path) -> None:
    async with keys_for(f"{EDIT}---\ntext: I see.", workspace) as keys:
        keys.press("go\r")
        await keys.drawn("Allow?")
        keys.press("\x04")
        await keys.until("Denied: the user refused it")
        await keys.until("Answer: I see.")


async def test_tab_prints_what_there_is_and_inserts_what_is_certain(workspace: Path) -> None:
    async with keys_for("text: Read.", workspace) as keys:
        keys.press("/e\t")
        await keys.until("Completions: /effort\n  /export\n")
        keys.press("f\t\r")
        await keys.until("Choose: Effort")
        await keys.drawn("Number, 1 to 3")
        keys.press("\r")
        await keys.until("Notice: nothing is chosen.")
        keys.press("look at @ap\t\r")
        await keys.until("Answer: Read.")
        assert History(workspace).browse()[0] == "look at @app.py"


async def test_earlier_prompts_come_with_up_and_rewind_fills_the_prompt(workspace: Path) -> None:
    History(workspace).add("from before")
    async with keys_for("text: One.\n---\ntext: Two.\n---\ntext: Three.", workspace) as keys:
        await asyncio.sleep(0.2)  # the history is loaded in the background
        keys.press("\x1b[A\r")
        await keys.until("Answer: One.")
        await keys.until("Ready.")
        keys.press("/rewind 0\r")
        await keys.until("Notice: gone back to before prompt 1.")
        await keys.until("Ready.")
        keys.press(" and more\r")
        await keys.until("Answer: Two.")
        assert History(workspace).browse()[0] == "from before and more"


async def test_ctrl_c_right_after_enter_stops_what_has_hardly_begun(workspace: Path) -> None:
    async with keys_for("delay: 60\ntext: Never.", workspace) as keys:
        keys.press("go\r\x03\x03")
        await keys.until("nterrupted")  # before it was read, or in the middle of it
        await keys.until("Ready.")


async def test_a_search_ends_with_ctrl_c_or_with_the_prompt_that_was_withdrawn(workspace: Path) -> None:
    History(workspace).add("from before")
    async with keys_for(f"text: One.\n---\ndelay: 1\n{EDIT}---\ntext: Two.", workspace) as keys:
        await asyncio.sleep(0.2)
        keys.press("\x12bef")
        await keys.drawn("I-search")
        keys.press("\x03mine\r")
        await keys.until("Answer: One.")
        assert History(workspace).browse()[0] == "mine"
        await keys.until("Ready.")
        keys.press("go\r\x12bef")
        await keys.until("Question: may this edit be made?")
        await keys.drawn("Allow?")
        keys.press("y\r")
        await keys.until("Edit: app.py, 1 added, 1 removed")
        await keys.until("Ready.")
        keys.press("\x15!echo back\r")
        await keys.until("Shell: echo back, exit 0")


async def test_the_editor_writes_the_prompt(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "sed -i s/old/young/")
    async with keys_for("text: One.", workspace) as keys:
        keys.press("an old prompt\x07")
        await keys.drawn("young")
        keys.press("\r")
        await keys.until("Answer: One.")
        assert History(workspace).browse()[0] == "an young prompt"
