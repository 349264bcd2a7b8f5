"""The slash commands, the same for every front end: a line comes in, outcomes come out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_agent.chat import outcomes as out
from dsv4_agent.chat.dialogue import Dialogue
from dsv4_agent.chat.pages import context_page, doctor_page, help_page
from dsv4_agent.permissions.decision import PermissionMode
from dsv4_agent.session.journal import JournalError
from dsv4_agent.session.store import list_sessions, title_of
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import Effort, ModelOptions
from dsv4_agent.workbench.settings import THEMES

MODES: dict[PermissionMode, str] = {
    PermissionMode.PLAN: "reads, changes nothing, answers with a plan",
    PermissionMode.DEFAULT: "asks before edits and commands",
    PermissionMode.ACCEPT_EDITS: "edits without asking, asks before commands",
    PermissionMode.AUTO: "asks about nothing that deny rules don't stop",
}
_YES = "--yes"


class Commands:
    """Runs command lines for one dialogue. `keys` are the front end's key bindings, for the help."""

    def __init__(self, dialogue: Dialogue, keys: Sequence[tuple[str, str]] = ()) -> None:
        self._dialogue = dialogue
        self._keys = tuple(keys)

    def listing(self) -> list[tuple[str, str]]:
        """Name and description of each command, names without the slash."""
        return [(command.name, command.description) for command in COMMANDS]

    def complete(self, command: str, prefix: str) -> list[str]:
        """Arguments of a command that begin with `prefix`."""
        return [word for word in self._arguments(command) if word.startswith(prefix)]

    async def run(self, line: str) -> list[out.Outcome]:
        """Run a line such as `/effort max`; what is wrong with it is an outcome too."""
        name, _, argument = line.strip().removeprefix("/").partition(" ")
        command = next((c for c in COMMANDS if c.name == name or name in c.aliases), None)
        if command is None:
            return [out.Say("error", f"there is no command /{name}: /help lists them")]
        try:
            return list(await command.action(self, argument.strip()))
        except RunFailure as failure:
            return [out.Say("error", failure.line())]
        except JournalError as failure:
            return [out.Say("error", str(failure))]

    def _arguments(self, command: str) -> list[str]:
        match command:
            case "effort":
                return [effort.value for effort in Effort]
            case "permissions":
                return [mode.value for mode in MODES]
            case "theme":
                return list(THEMES)
            case "resume":
                return [info.id for info in list_sessions(limit=50)]
        return []

    # -- actions -----------------------------------------------------------------------------------------

    async def help(self, _: str) -> Sequence[out.Outcome]:
        rows = [(f"/{name}", text) for name, text in self.listing()]
        return [out.Page("Help", help_page(rows, self._keys))]

    async def keys(self, _: str) -> Sequence[out.Outcome]:
        return [out.Page("Keys", "\n".join(f"  {key:<16} {text}" for key, text in self._keys))]

    async def model(self, name: str) -> Sequence[out.Outcome]:
        if not name:
            current = self._dialogue.status.model
            text = "The built-in model, a checkpoint folder, a server of dsv4 model list, or scripted:FILE."
            return [out.Say("info", f"{current} answers now. /model NAME takes another: {text}")]
        given = self._dialogue.options.model
        self._dialogue.load_model(
            ModelOptions(name=name, engine=given.engine, local_server=given.local_server)
        )
        return []

    async def effort(self, text: str) -> Sequence[out.Outcome]:
        word, _, rest = text.partition(" ")
        if not word:
            options = tuple(out.Option(effort.value, effort.value) for effort in Effort)
            return [out.Pick("Effort", options, "/effort", self._dialogue.status.effort)]
        try:
            effort = Effort(word)
        except ValueError:
            return [out.Say("error", f"effort is {', '.join(Effort)}, not {word!r}")]
        if (conversation := self._dialogue.conversation) is None:
            return [out.Say("error", "the model is not loaded yet")]
        price = conversation.effort_price(effort)
        if price and rest != _YES:
            cost = f"{price:,} tokens are computed again"
            question = f"Another effort changes the beginning of the prompt: {cost}. Go on?"
            return [out.Confirm(question, f"/effort {word} {_YES}")]
        self._dialogue.set_effort(effort)
        return []

    async def permissions(self, word: str) -> Sequence[out.Outcome]:
        if word.startswith("remove "):
            return self._forget_rule(word.removeprefix("remove ").strip())
        if not word:
            options = tuple(out.Option(mode.value, mode.value, text) for mode, text in MODES.items())
            pick = out.Pick("Permission mode", options, "/permissions", self._dialogue.status.mode)
            return [*self._rules(), pick]
        if word not in {mode.value for mode in MODES}:
            return [out.Say("error", f"the modes are {', '.join(MODES)}, not {word!r}")]
        self._dialogue.set_mode(PermissionMode(word))
        return [out.Say("info", f"permission mode {word}: {MODES[PermissionMode(word)]}")]

    async def context(self, _: str) -> Sequence[out.Outcome]:
        return [out.Page("Context", context_page(self._dialogue.status))]

    async def compact(self, wishes: str) -> Sequence[out.Outcome]:
        self._dialogue.compact(wishes)
        return []

    async def new(self, _: str) -> Sequence[out.Outcome]:
        self._dialogue.begin_anew()
        return []

    async def sessions(self, _: str) -> Sequence[out.Outcome]:
        infos = await asyncio.to_thread(list_sessions)
        if not infos:
            return [out.Say("info", "there is no earlier session")]
        options = tuple(
            out.Option(info.id, info.title or info.id, f"{info.prompts} prompts · {info.model} · {info.cwd}")
            for info in infos
        )
        return [out.Pick("Resume a session", options, "/resume", self._dialogue.status.session)]

    async def resume(self, wanted: str) -> Sequence[out.Outcome]:
        if not wanted:
            return await self.sessions("")
        self._dialogue.resume(wanted)
        return []

    async def rename(self, title: str) -> Sequence[out.Outcome]:
        conversation = self._dialogue.conversation
        if not title:
            return [out.Say("error", "say how: /rename TITLE")]
        if conversation is None or not conversation.rename(title):
            return [out.Say("info", "there is no session yet: it begins with the first prompt")]
        return [out.Say("info", f"this session is now called {title_of(title)}")]

    async def rewind(self, number: str) -> Sequence[out.Outcome]:
        conversation = self._dialogue.conversation
        prompts = () if conversation is None else conversation.prompts
        if self._dialogue.status.busy:
            return [out.Say("error", "stop the agent first (Esc)")]
        if not prompts:
            return [out.Say("info", "there is nothing to go back to")]
        if not number.isdecimal():
            options = tuple(out.Option(str(index), title_of(mark.text)) for index, mark in enumerate(prompts))
            title = "Go back to before (the conversation; files stay, /undo takes changes back)"
            return [out.Pick(title, options, "/rewind", str(len(prompts) - 1))]
        text = self._dialogue.rewind(int(number))
        return [out.Say("error", "there is no such prompt")] if text is None else [out.Fill(text)]

    async def unsay(self, _: str) -> Sequence[out.Outcome]:
        text = self._dialogue.take_back()
        return [out.Say("info", "nothing is queued")] if text is None else [out.Fill(text)]

    async def diff(self, _: str) -> Sequence[out.Outcome]:
        if (conversation := self._dialogue.conversation) is None:
            return [out.Say("error", "nothing is open yet")]
        patch = await asyncio.to_thread(conversation.diff)
        nothing = out.Say("info", "nothing has changed since the chat began")
        return [out.Patch("What changed since the chat began", patch) if patch else nothing]

    async def undo(self, _: str) -> Sequence[out.Outcome]:
        self._dialogue.undo()
        return []

    async def export(self, name: str) -> Sequence[out.Outcome]:
        from dsv4_agent.chat.export import markdown

        conversation = self._dialogue.conversation
        if conversation is None or conversation.agent is None:
            return [out.Say("info", "there is nothing to export yet")]
        session = conversation.agent.session
        name = name or f"dsv4-{session.id[:8]}.md"
        text = markdown(conversation.title, session.transcript.messages())
        return [await asyncio.to_thread(_write_new, conversation.setting.root, name, text)]

    async def copy(self, _: str) -> Sequence[out.Outcome]:
        conversation = self._dialogue.conversation
        agent = None if conversation is None else conversation.agent
        messages = [] if agent is None else agent.session.transcript.messages()
        said = [str(m["content"]).strip() for m in messages if m["role"] == "assistant"]
        texts = [text for text in said if text]
        return [out.Copy(texts[-1]) if texts else out.Say("info", "there is no answer to copy yet")]

    async def theme(self, name: str) -> Sequence[out.Outcome]:
        if not name:
            return [out.Pick("Theme", tuple(out.Option(theme, theme) for theme in THEMES), "/theme")]
        if name not in THEMES:
            return [out.Say("error", f"the themes are {', '.join(THEMES)}, not {name!r}")]
        return [out.UseTheme(name)]

    async def doctor(self, _: str) -> Sequence[out.Outcome]:
        page = await asyncio.to_thread(doctor_page, self._dialogue.status, os.environ)
        return [out.Page("Doctor", page)]

    async def quit(self, _: str) -> Sequence[out.Outcome]:
        return [out.Quit()]

    def _rules(self) -> list[out.Outcome]:
        conversation = self._dialogue.conversation
        if conversation is None:
            return []
        policy = conversation.setting.policy if conversation.agent is None else conversation.agent.policy
        rows = [f"  allow  {rule.text}" for rule in policy.allow]
        rows += [f"  deny   {rule.text}" for rule in policy.deny]
        text = "\n".join(rows) or "  none: answers 'session' and 'always' make some"
        return [out.Say("info", f"rules of this session (/permissions remove RULE forgets one):\n{text}")]

    def _forget_rule(self, text: str) -> list[out.Outcome]:
        conversation = self._dialogue.conversation
        if conversation is None or not conversation.forget_rule(text):
            return [out.Say("error", f"there is no allow rule {text!r}")]
        return [out.Say("info", f"{text} is no longer allowed without asking")]


def _write_new(root: Path, name: str, text: str) -> out.Say:
    place = root / Path(name).expanduser()
    try:
        with place.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except FileExistsError:
        return out.Say("error", f"{place} exists: /export NAME takes another name")
    except OSError as error:
        return out.Say("error", f"{place} can't be written: {error.strerror}")
    return out.Say("info", f"written to {place}")


Action = Callable[[Commands, str], Awaitable[Sequence[out.Outcome]]]


@dataclass(frozen=True, slots=True)
class Command:
    """One command; `aliases` are other names for it."""

    name: str
    description: str
    action: Action
    aliases: tuple[str, ...] = ()


COMMANDS: tuple[Command, ...] = (
    Command("help", "what can be typed and pressed", Commands.help, ("?",)),
    Command("model", "take another model", Commands.model),
    Command("effort", "how hard the model thinks: off, high, max", Commands.effort),
    Command("permissions", "who is asked, and the rules", Commands.permissions, ("mode",)),
    Command("context", "what fills the window and the KV cache", Commands.context),
    Command("compact", "sum up the conversation to make room", Commands.compact),
    Command("new", "begin a new conversation", Commands.new, ("clear",)),
    Command("resume", "take up an earlier session", Commands.resume),
    Command("sessions", "list earlier sessions", Commands.sessions),
    Command("rename", "give this session a title", Commands.rename),
    Command("rewind", "go back to an earlier prompt", Commands.rewind),
    Command("unsay", "take back what was queued last, to write it anew", Commands.unsay),
    Command("diff", "what changed in the files", Commands.diff),
    Command("undo", "take back the last run's changes to files", Commands.undo),
    Command("export", "write the conversation to a Markdown file", Commands.export),
    Command("copy", "copy the last answer", Commands.copy),
    Command("theme", "dark, light or high contrast", Commands.theme),
    Command("keys", "the key bindings", Commands.keys),
    Command("doctor", "what this machine has and lacks", Commands.doctor),
    Command("quit", "leave; the session stays", Commands.quit, ("exit",)),
)
