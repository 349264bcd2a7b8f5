"""A setting with at most one session in it, and what may be done to them between runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dsv4_agent.chat.setting import Setting, agent_for, new_session, resume_session
from dsv4_agent.loop.agent import Agent
from dsv4_agent.loop.event_json import from_json
from dsv4_agent.loop.events import Event, PrefixBreak, Rewound
from dsv4_agent.permissions.decision import PermissionMode, Policy
from dsv4_agent.session.session import PromptMark
from dsv4_agent.session.store import SessionInfo, shown_events, title_of, write_note
from dsv4_agent.workbench.git_state import Restored
from dsv4_agent.workbench.model_options import Effort, ModelOptions
from dsv4_agent.workbench.models import OpenedModel, effort_of, open_model, with_effort
from dsv4_prompts import prompt as prompt_text


class Conversation:
    """Everything that blocks here (opening, resuming, snapshots) is meant for a thread.

    The session is made when the first prompt comes, so that looking around leaves nothing behind.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.agent: Agent | None = None
        self.title = ""
        self._changes: list[tuple[str, str]] = []
        self._notes: list[str] = []
        self._told = PermissionMode.DEFAULT

    @property
    def model(self) -> OpenedModel:
        """The model that answers."""
        return self.setting.model

    @property
    def effort(self) -> str:
        """How hard the model thinks, in a word."""
        return effort_of(self.model.preset)

    @property
    def prompts(self) -> Sequence[PromptMark]:
        """The points to go back to, oldest first."""
        return () if self.agent is None else self.agent.session.prompts

    def ready(self, prompt: str) -> Agent:
        """The agent for a prompt; the first one begins a session. Raises `RunFailure`."""
        if self.agent is None:
            session = new_session()
            try:
                self.agent = agent_for(self.setting, session)
            except BaseException:
                session.close()
                raise
            self.title = title_of(prompt)
        return self.agent

    def begin_anew(self) -> None:
        """Leave the session; it stays on disk."""
        if self.agent is not None:
            self.agent.session.close()
        self.agent = None
        self.title = ""
        self._changes.clear()
        self._notes.clear()
        self._told = PermissionMode.DEFAULT

    def resume(self, info: SessionInfo) -> tuple[Event, ...]:
        """Take up another session. Raises `RunFailure`, and then this one goes on."""
        session = resume_session(info.journal, self.model)
        try:
            events = tuple(event for data in shown_events(info.journal) if (event := from_json(data)))
            agent = agent_for(self.setting, session)
        except BaseException:
            session.close()
            raise
        self.begin_anew()
        self.agent, self.title = agent, info.title
        return events

    def rename(self, title: str) -> bool:
        """Give the session a title; False where there is none yet."""
        if self.agent is None:
            return False
        self.agent.session.rename(title)
        self.title = title_of(title)
        self.note_session()
        return True

    def rewind(self, kept: int) -> tuple[str, Rewound]:
        """Go back to before a prompt: its text, and the event that tells of it."""
        assert self.agent is not None, "there is a prompt, so there is an agent"
        text = self.prompts[kept].text
        return text, self.agent.rewind(kept)

    def set_mode(self, mode: PermissionMode) -> None:
        """Ask more or less from now on."""
        self.setting.policy = replace(self.setting.policy, mode=mode)
        if self.agent is not None:
            self.agent.policy = replace(self.agent.policy, mode=mode)

    def forget_rule(self, text: str) -> bool:
        """Ask again about what an allow rule allowed; whether there was such a rule."""
        held = [self.setting.policy, *([] if self.agent is None else [self.agent.policy])]
        known = any(rule.text == text for policy in held for rule in policy.allow)
        kept = self.setting.rules.remove(text)
        self.setting.policy = _without(self.setting.policy, text)
        if self.agent is not None:
            self.agent.policy = _without(self.agent.policy, text)
        return known or kept

    def effort_price(self, effort: Effort) -> int:
        """Tokens to compute again for another effort. Raises `RunFailure` where there is only one."""
        preset = with_effort(self.model.preset, effort)
        return 0 if self.agent is None else self.agent.opening_price(preset)

    def set_effort(self, effort: Effort) -> PrefixBreak | None:
        """Think harder or less from now on. Raises `RunFailure` where there is only one way."""
        preset = with_effort(self.model.preset, effort)
        self.setting.model = replace(self.model, preset=preset)
        return None if self.agent is None else self.agent.use(preset)

    def load_model(self, options: ModelOptions) -> OpenedModel:
        """Load another model and begin anew with it; returns the old one. Raises `RunFailure`."""
        opened = open_model(options)
        old, self.setting.model = self.model, opened
        self.begin_anew()
        return old

    def tell(self, note: str) -> None:
        """Something the model shall read in front of the next prompt."""
        self._notes.append(note)

    def take_note(self) -> str | None:
        """What the model has to be told now: changes of mode and what was noted."""
        notes, self._notes = self._notes, []
        mode = self.setting.policy.mode
        # The built-in model has been trained without such words.
        if (
            self.model.preset.environment_block
            and PermissionMode.PLAN in (mode, self._told)
            and mode != self._told
        ):
            notes.insert(0, prompt_text("plan_mode" if mode is PermissionMode.PLAN else "plan_mode_over"))
        self._told = mode
        return "\n\n".join(notes) or None

    def snapshot(self) -> str | None:
        """The work tree as it is; None where it can't be recorded."""
        repository = self.setting.repository
        return repository.snapshot() if repository.recorded else None

    def changed(self, before: str | None, after: str | None) -> None:
        """Remember what a run did to the work tree, for `undo`."""
        if before is not None and after is not None and before != after:
            self._changes.append((before, after))

    def undo(self) -> Restored | None:
        """Take back what the last run changed that is not yet undone; None where there is nothing.

        Raises `RunFailure`.
        """
        if not self._changes:
            return None
        restored = self.setting.repository.restore(*self._changes[-1])
        self._changes.pop()
        if restored.files:
            self.tell("The user has undone your last changes to: " + ", ".join(restored.files))
        return restored

    def diff(self) -> str:
        """Everything that changed since the chat began, as a patch. Raises `RunFailure`."""
        repository = self.setting.repository
        return repository.changes().patch.decode("utf-8", "replace") if repository.recorded else ""

    def note_session(self) -> None:
        """Write down for the list of sessions what this one is about."""
        if self.agent is not None:
            session = self.agent.session
            write_note(
                session.directory,
                title=self.title,
                cwd=str(self.setting.root),
                model=self.model.backend.info.id,
                prompts=session.prompts_said,
            )

    def close(self) -> None:
        """End it; the session stays on disk."""
        self.note_session()
        self.begin_anew()
        self.setting.close()


def _without(policy: Policy, text: str) -> Policy:
    return replace(policy, allow=tuple(rule for rule in policy.allow if rule.text != text))
