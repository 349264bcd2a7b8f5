"""The invariants of the design, each with a test that turns red when it is broken."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import dsv4_agent
from dsv4_agent.backends.base import (
    BackendInfo,
    BackendKind,
    Conversation,
    Finished,
    GenerationUsage,
    PrefixSynced,
    SampledIds,
)
from dsv4_agent.backends.text import TextTurnBackend
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.loop.event_json import to_json
from dsv4_agent.loop.events import ItemDelta, PrefixBreak, RunResult, Subtype
from dsv4_agent.loop.preset import default_preset
from dsv4_agent.session.journal import read_journal
from dsv4_agent.session.session import Session, replay
from dsv4_agent.session.transcript import EntryKind

SPECIAL = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "｜DSML｜",
)
CALL = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="{0}">\n<｜DSML｜parameter name="{1}" string="true">{2}'
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)
TURNS = ("look</think>" + CALL.format("grep", "pattern", "old_name"), "see</think>It is in app.py.")


class Bytes:
    """A tokenizer of bytes and the special tokens; content never becomes a special token."""

    size = 256 + len(SPECIAL)

    def id_of(self, token: str) -> int | None:
        return 256 + SPECIAL.index(token) if token in SPECIAL else None

    def token_bytes(self, token_id: int, /) -> bytes:
        return bytes([token_id]) if token_id < 256 else SPECIAL[token_id - 256].encode()

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        ids: list[int] = []
        for segment in segments:
            rest = segment.text
            while rest:
                special = next((s for s in SPECIAL if segment.structure and rest.startswith(s)), None)
                ids += [256 + SPECIAL.index(special)] if special else list(rest[0].encode())
                rest = rest[len(special) if special else 1 :]
        return ids


class Watcher(TextTurnBackend):
    """Plays turns as ids, and looks at the journal each time it is asked."""

    def __init__(self, turns: Sequence[str], session: Session) -> None:
        vocabulary = Bytes()
        super().__init__(encode=vocabulary.encode, vocabulary=vocabulary)
        self.turns = list(turns)
        self.session = session
        self.seen: list[list[int]] = []
        self.journaled: list[list[int]] = []

    def next_turn(self, conversation: Conversation) -> str:
        self.seen.append(list(conversation.tokens()))
        self.journaled.append(replay(self.session.journal_path).transcript.tokens())
        return self.turns[len(self.seen) - 1]


@pytest.fixture
def watcher(lab: Any) -> Watcher:
    return Watcher(TURNS, Session.create(directory=lab.sessions))


async def test_1_sampled_ids_are_kept_exactly_and_prefixes_only_grow(lab: Any, watcher: Watcher) -> None:
    # "old_name" spelt byte by byte in an unusual way would be lost by rendering the parsed call again.
    await lab.run(watcher, session=watcher.session)
    tokens = watcher.session.transcript.tokens()
    for before, turn in zip(watcher.seen, TURNS, strict=True):
        sampled = Bytes().encode([Segment(turn, True)])
        assert tokens[: len(before)] == before
        assert tokens[len(before) : len(before) + len(sampled)] == sampled
    spans = watcher.session.transcript.training_spans()
    assert [ids for ids, sampled in spans if sampled] == [
        [*Bytes().encode([Segment(turn, True)]), 257] for turn in TURNS
    ]


async def test_1_a_repaired_turn_is_kept_as_it_was_sampled(lab: Any) -> None:
    odd = TURNS[0].replace("tool_calls>", "function_calls>").replace("</think>\n\n", "</think> \n")
    watcher = Watcher((odd, TURNS[1]), Session.create(directory=lab.sessions))
    await lab.run(watcher, session=watcher.session)
    assert odd in "".join(segment.text for segment in watcher.session.transcript.segments())


async def test_2_nothing_reaches_the_model_that_the_journal_does_not_hold(lab: Any, watcher: Watcher) -> None:
    await lab.run(watcher, session=watcher.session)
    assert watcher.journaled == watcher.seen
    assert len(watcher.seen) == 2
    replayed = replay(watcher.session.journal_path).transcript
    assert replayed.entries == watcher.session.transcript.entries


async def test_2_a_full_disk_stops_the_run_before_the_model_acts(
    lab: Any, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Session.start_call

    def full(self: Session, *arguments: Any, **options: Any) -> None:
        def refuse(*_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.write", refuse)
            real(self, *arguments, **options)

    monkeypatch.setattr(Session, "start_call", full)
    watcher.turns[0] = "x</think>" + CALL.format("write", "path", "made.txt").replace(
        "\n</｜DSML｜invoke>",
        '\n<｜DSML｜parameter name="content" string="true">x</｜DSML｜parameter>\n</｜DSML｜invoke>',
    )
    result = await lab.run(watcher, session=watcher.session)
    assert (result.subtype, result.exit_code) == (Subtype.INTERNAL, 1)
    assert "No space left" in result.error
    assert not (lab.workspace / "made.txt").exists()
    assert len(watcher.seen) == 1


async def test_3_the_opening_is_the_same_for_every_folder_and_time(lab: Any, tmp_path: Path) -> None:
    openings = []
    for name in ("repo", "elsewhere"):
        lab.workspace = tmp_path / name
        lab.workspace.mkdir(exist_ok=True)
        await lab.run("text: hi", preset=default_preset())
        openings.append(lab.session.transcript.entries[0])
    assert openings[0].kind is EntryKind.PROMPT
    assert openings[0] == openings[1]
    assert str(tmp_path) not in openings[0].text


async def test_3_a_lost_prefix_is_an_event_with_cause_and_price(lab: Any) -> None:
    class Forgetful:
        vocabulary = Bytes()
        info = BackendInfo("x", BackendKind.INPROCESS, 100_000, tokenizes=True)
        turns = 0

        def encode(self, segments: Sequence[Segment]) -> tuple[int, ...]:
            return tuple(self.vocabulary.encode(segments))

        async def generate(self, conversation: Conversation, request: object) -> Any:
            ids = tuple(self.vocabulary.encode([Segment(TURNS[self.turns] + SPECIAL[1], True)]))
            self.turns += 1
            cause = None if self.turns == 1 else "diverged at token 0"
            yield PrefixSynced(0, len(conversation.tokens()), None, cause)
            yield SampledIds(ids)
            yield Finished(FinishReason.STOP, GenerationUsage(10, 0, len(ids)))

        async def close(self) -> None:
            return None

    await lab.run(Forgetful())
    (event,) = lab.of(PrefixBreak)
    assert event.cause == "diverged at token 0"
    first = lab.session.transcript.entries[:3]
    assert event.tokens == sum(len(entry.ids or ()) for entry in first)


async def test_4_the_journal_holds_each_event_before_anyone_sees_it(lab: Any, watcher: Watcher) -> None:
    agent = lab.agent(watcher, session=watcher.session)
    seen = []
    async for event in agent.run("do it"):
        if isinstance(event, ItemDelta):
            continue
        seen.append(to_json(event))
        records = read_journal(watcher.session.journal_path).records
        journaled = [dict(record.data) for record in records if record.kind == "event"]
        assert journaled == seen
    assert seen[-1]["type"] == RunResult.type


def test_5_imports_point_down() -> None:
    root = Path(dsv4_agent.__file__).parent
    below = {"session", "backends", "permissions"}
    for package in sorted(below):
        forbidden = {"cli", "headless", "tui", "loop", *below} - {package}
        for path in (root / package).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                name = node.module if isinstance(node, ast.ImportFrom) else None
                parts = (name or "").split(".")
                assert not (parts[0] == "dsv4_agent" and len(parts) > 1 and parts[1] in forbidden), path
                assert package not in {"session", "permissions"} or not parts[0].startswith("dsv4_model"), (
                    path
                )


async def test_6_a_call_is_on_record_before_it_starts_and_after_it_ends(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsv4_tools.grep import Grep

    real = Grep.run
    during = []

    async def spy(self: Any, *arguments: Any) -> Any:
        during.append(dict(replay(lab.session.journal_path).calls))
        return await real(self, *arguments)

    monkeypatch.setattr(Grep, "run", spy)
    await lab.run("call: grep\n  pattern: old_name\n---\ntext: ok")
    assert during[0][1, 0].name == "grep"
    assert during[0][1, 0].result is None
    assert replay(lab.session.journal_path).calls[1, 0].result == "app.py:1:def old_name():"


async def test_7_a_run_makes_no_network_traffic(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a network connection was attempted")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    calls = "call: grep\n  pattern: a\ncall: git_status\ncall: git_commit\n  message: m"
    result = await lab.run(f"{calls}\n---\ntext: ok")
    assert result.subtype is Subtype.SUCCESS


def test_8_the_types_that_front_ends_need_import_nothing_heavy() -> None:
    modules = (
        "dsv4_agent.loop.events, dsv4_agent.backends.inprocess, dsv4_agent.backends.scripted, "
        "dsv4_agent.session.session, dsv4_agent.permissions.decision, dsv4_agent.loop.preset"
    )
    heavy = "{'torch', 'transformers', 'textual', 'pydantic', 'numpy'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
