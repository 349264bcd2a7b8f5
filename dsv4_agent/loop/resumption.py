"""What the transcript tells of a run that an earlier process began."""

from __future__ import annotations

from collections.abc import Mapping

from dsv4_agent.backends.text import estimate_tokens
from dsv4_agent.dsml.events import FinishReason, ParsedMessage
from dsv4_agent.dsml.parse import StreamParser
from dsv4_agent.dsml.schema import ToolSchema
from dsv4_agent.dsml.vocabulary import Vocabulary
from dsv4_agent.loop.facts import Usage
from dsv4_agent.loop.guards import RunState
from dsv4_agent.loop.served_turn import read_back
from dsv4_agent.session.session import Session
from dsv4_agent.session.transcript import EntryKind


def last_message(
    session: Session, tools: Mapping[str, ToolSchema], vocabulary: Vocabulary | None, thinking: bool
) -> ParsedMessage | None:
    """The turn at the end of the transcript, read again as it was read when it was sampled.

    None where the model has to be asked first. A turn without its end counts as cut at the token limit.
    """
    last = session.transcript.last
    if last is None or not last.sampled:
        return None
    if (message := read_back(last, tools)) is not None:
        return message
    parser = StreamParser(tools, thinking=thinking, vocabulary=vocabulary)
    if last.ids is not None and vocabulary is not None:
        parser.feed_ids(last.ids)
    else:
        parser.feed_text(last.text)
    return parser.finish(FinishReason.STOP if last.closed else FinishReason.LENGTH)


def answers_results(session: Session) -> bool:
    """Whether the latest turn answers tool results rather than a prompt."""
    given = (entry.kind for entry in reversed(session.transcript.entries) if not entry.sampled)
    return next(given, None) is EntryKind.TOOL_RESULTS


def recount(run: RunState, session: Session) -> None:
    """Count what the run has spent so far: turns and sampled tokens, for its budgets."""
    begin = session.prompts[-1].entry
    sampled = [entry for entry in session.transcript.entries[begin:] if entry.sampled]
    run.turns = len(sampled)
    finished = sampled[:-1] if sampled and session.transcript.entries[-1].sampled else sampled
    turns = {entry.turn for entry in finished}
    run.tool_calls = sum(turn in turns for turn, _ in session.recorded_calls)
    tokens = sum(len(entry.ids) if entry.ids else estimate_tokens(entry.text) for entry in sampled)
    run.usage += Usage(output_tokens=tokens)
    contents = [str(entry.messages[0].get("content", "")).strip() for entry in sampled if entry.messages]
    run.answer = next((content for content in reversed(contents) if content), "")
