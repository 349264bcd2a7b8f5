"""A card: a header line with state, title and facts, and a folded body. Tool calls and `!` lines use it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from rich.style import Style

from dsv4_agent.tui.theme import Palette
from dsv4_agent.tui.transcript.diff import diff_rows
from dsv4_agent.tui.transcript.frame import Detail, Frame
from dsv4_agent.tui.transcript.lines import folded_rows, more_row, text_rows
from dsv4_agent.tui.transcript.rows import Row, Span, with_gutter
from dsv4_agent.tui.transcript.wrapping import cells, cut
from dsv4_agent.workbench.plain_text import plain_line

_LEAST_OF_DIFF: Final = 12
"""What was changed is worth more room than what was printed."""


class State(Enum):
    """How far a card is: its sign and its word, so that no state is told by colour alone."""

    RUNNING = ("●", "running")
    DONE = ("✓", "done")
    FAILED = ("✗", "failed")
    DECLINED = ("⊘", "declined")
    TIMED_OUT = ("✗", "timed out")
    STOPPED = ("■", "interrupted")

    @property
    def sign(self) -> str:
        """One cell."""
        return self.value[0]

    @property
    def word(self) -> str:
        """For the facts at the end of the header."""
        return self.value[1]

    def style(self, palette: Palette) -> Style:
        """The colour of sign and word."""
        match self:
            case State.RUNNING:
                return palette.info
            case State.DONE:
                return palette.success
            case State.FAILED | State.TIMED_OUT:
                return palette.error
            case State.DECLINED | State.STOPPED:
                return palette.warning


@dataclass(frozen=True, slots=True)
class Change:
    """One file of a card: its diff, and a heading where the card has several."""

    path: str
    diff: str
    heading: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """`verb` is what is done, `title` to what (both foreign); `facts` follow the state's word."""

    state: State
    verb: str
    title: str
    facts: tuple[str, ...] = ()
    added: int | None = None
    removed: int | None = None
    note: str = ""
    output: str = ""
    changes: tuple[Change, ...] = ()
    foot: str = ""


def card_rows(card: Card, frame: Frame) -> list[Row]:
    """Header, the rest of a long title where details are shown, note, diffs, output."""
    palette, limit = frame.palette, frame.detail.value
    sign = ((f"{card.state.sign} ", card.state.style(palette)),)
    bar: tuple[Span, ...] = (("  ", palette.rule), ("│ ", palette.rule))
    width = frame.inner - 2
    header, whole = _header(card, frame)
    body: list[Row] = []
    if not whole and frame.detail is not Detail.FOLDED:
        body += folded_rows(card.title, palette.text, palette.muted, width, limit)
    if card.note:
        body += text_rows(card.note, palette.warning, width)
    for change in card.changes:
        body += _change_rows(change, limit, width, palette)
    if card.output.strip("\n"):
        body += folded_rows(card.output, palette.muted, palette.muted, width, limit)
    if card.foot:
        body += text_rows(card.foot, palette.muted, width)
    return [Row(header, sign), *with_gutter(body, bar, bar)]


def _change_rows(change: Change, limit: int | None, width: int, palette: Palette) -> list[Row]:
    heading = [Row(((cut(plain_line(change.heading), width), palette.strong),))] if change.heading else []
    if limit is None:
        return heading + diff_rows(change.diff, change.path, width, palette)
    limit = max(limit, _LEAST_OF_DIFF)
    lines = change.diff.rstrip("\n").split("\n")
    rows = diff_rows("\n".join(lines[: limit + 2]), change.path, width, palette)
    if len(rows) <= limit + 1:
        return heading + rows
    begun = sum(row.joint == "\n" for row in rows[: limit + 1]) - 1
    return [*heading, *rows[:limit], more_row(max(len(lines) - begun, 1), palette.muted, width)]


def _header(card: Card, frame: Frame) -> tuple[tuple[Span, ...], bool]:
    """The header's spans, and whether the title is all there."""
    palette = frame.palette
    counts: list[Span] = []
    if card.added is not None:
        counts.append((f"  +{card.added}", palette.added))
    if card.removed is not None:
        counts.append((f" -{card.removed}", palette.removed))
    facts = [plain_line(fact, 60) for fact in card.facts if fact]
    tail: list[Span] = [*counts, (f"  {card.state.word}", card.state.style(palette))]
    if facts:
        tail.append((" · " + " · ".join(facts), palette.muted))
    room = frame.inner
    while len(tail) > 1 and room - _cells(tail) < min(16, room // 2):
        # Too narrow: the state's word stays longest.
        tail.pop(0 if len(tail) > 1 and tail[-1][0].startswith("  ") else -1)
    verb = cut(plain_line(card.verb), max(room - _cells(tail), 1))
    room -= cells(verb) + 1
    first, _, more = card.title.partition("\n")
    wanted = plain_line(first[: 4 * room + 8])
    if more.strip() or len(first) > 4 * room + 8:
        wanted += " …"
    title = cut(wanted, max(room - _cells(tail), 0))
    spans: list[Span] = [(verb, palette.strong)]
    if title:
        spans += [(" ", palette.text), (title, palette.text)]
    left = frame.inner - _cells(spans)
    kept = tail if _cells(tail) <= left else []
    return (*spans, *kept), title == wanted and not wanted.endswith(" …")


def _cells(spans: list[Span]) -> int:
    return sum(cells(text) for text, _ in spans)
