"""The line at the bottom: phase, model, mode, branch, cache, speed, cost, queue."""

from __future__ import annotations

from typing import ClassVar

from textual.content import Content
from textual.reactive import var
from textual.widget import Widget

from dsv4_agent.chat.pages import share
from dsv4_agent.chat.status import Phase, Status
from dsv4_agent.tui.transcript.wrapping import cells
from dsv4_agent.workbench.money import price
from dsv4_agent.workbench.plain_text import plain_line
from dsv4_agent.workbench.sizes import size

_TICK = 0.25
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class StatusLine(Widget):
    """Shows a `Status`; redraws itself four times a second while something goes on, else when told to."""

    DEFAULT_CSS = """
    StatusLine { height: 1; padding: 0 1; color: $text-muted; background: $surface; }
    """
    still: var[bool] = var(False)
    """No spinner: motion is unwanted."""
    SEPARATOR: ClassVar[str] = " · "

    def __init__(self, status: Status) -> None:
        super().__init__()
        self._status = status
        self._frame = 0
        self._moving = True

    def on_mount(self) -> None:
        self.set_interval(_TICK, self._tick)

    def _tick(self) -> None:
        # Once more after the last one: not every end comes with an event.
        moving = self._status.busy or self._status.phase is Phase.LOADING
        if moving or self._moving:
            self._frame += 1
            self.refresh()
        self._moving = moving

    def render(self) -> Content:
        width = self.size.width - 2
        left = self._phase()
        used = cells(left)
        shown: list[str] = []
        # What matters most comes first; what does not fit any more is left out whole.
        for part in self._parts():
            if used + len(self.SEPARATOR) + cells(part) > width:
                continue
            shown.append(part)
            used += len(self.SEPARATOR) + cells(part)
        style = "bold" if self._status.busy else ""
        return Content.assemble((left, style), *(f"{self.SEPARATOR}{part}" for part in shown))

    def _phase(self) -> str:
        status = self._status
        moving = status.busy or status.phase is Phase.LOADING
        spinner = "" if self.still or not moving else f"{_SPINNER[self._frame % len(_SPINNER)]} "
        tool = f" {plain_line(status.tool, 20)}" if status.tool else ""
        seconds = f" {status.seconds:.0f}s" if moving else ""
        return f"{spinner}{status.phase.value}{tool}{seconds}"

    def _parts(self) -> list[str]:
        status, kv = self._status, self._status.kv
        queued = f"{status.queued} queued" if status.queued else ""
        cache = turn = speed = held = window = ""
        if kv is not None:
            cache = f"KV {kv.used:,} ({share(kv.used, kv.limit)})"
            window = f"of {kv.limit:,}"
            turn = f"↺{kv.reused:,} +{kv.prefilled:,}"
            held = size(sum(kv.bytes.values())) if kv.bytes else ""
        elif status.window:
            window = f"window {status.window:,}"
        if status.decode_tps:
            speed = f"{status.decode_tps:,.0f} tok/s"
        cost = "" if status.cost is None else price(status.cost, status.currency)
        effort = "" if status.effort in ("", "default") else f"effort {status.effort}"
        parts = (
            queued,
            plain_line(status.model, 30),
            status.mode,
            cache,
            turn,
            speed,
            cost,
            held,
            plain_line(status.branch, 30),
            effort,
            window,
        )
        return [part for part in parts if part]
