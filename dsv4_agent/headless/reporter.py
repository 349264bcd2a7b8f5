"""What leaves the process, by output format: progress and answer, every event, or the result alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dsv4_agent.headless.options import OutputFormat, RunOptions
from dsv4_agent.headless.progress import Progress
from dsv4_agent.headless.standard_output import StandardOutput
from dsv4_agent.loop.event_json import to_json
from dsv4_agent.loop.events import Event, Init, ItemCompleted, ItemDelta, ItemStarted, ReasoningItem, Retry
from dsv4_agent.loop.facts import Discarded
from dsv4_agent.workbench.plain_text import plain


class Reporter:
    """Shows events as they come and the result once. Raises `BrokenPipeError` when stdout has no reader."""

    def __init__(self, options: RunOptions, output: StandardOutput, progress: Progress) -> None:
        self.progress = progress
        self.finished = False
        self._options = options
        self._format = options.output_format
        self._output = output
        self._begun = False
        self._hidden: set[str] = set()  # ids of reasoning items whose text stays private

    def event(self, event: Event) -> None:
        """Show one event of the loop; a second `init` (another run of the same agent) is left out."""
        if isinstance(event, Init):
            if self._begun:
                return
            self._begun = True
        match self._format:
            case OutputFormat.TEXT:
                self.progress.show(event)
            case OutputFormat.STREAM_JSON:
                if (shown := self._projected(event)) is not None:
                    self._output.write_json(to_json(shown))
            case OutputFormat.JSON:
                pass

    def result(self, result: Mapping[str, Any]) -> None:
        """End the output: the answer or the object on stdout, the error's line on stderr."""
        if self.finished:
            return
        self.finished = True
        if result["error"]:
            self.progress.error(str(result["error"]))
        if self._format is not OutputFormat.TEXT:
            self._output.write_json(result)
        elif answer := str(result["result"]).strip("\n"):
            self._output.write(plain(answer) + "\n")

    @property
    def broken(self) -> bool:
        """Whether stdout has refused a write."""
        return self._output.broken

    def _projected(self, event: Event) -> Event | None:
        options = self._options
        match event:
            case ItemStarted(item=ReasoningItem(id=id)) if not options.include_reasoning:
                self._hidden.add(id)
            case ItemDelta(id=id) if not options.include_partial or id in self._hidden:
                return None
            case ItemCompleted(item=ReasoningItem() as item) if not options.include_reasoning:
                return ItemCompleted(replace(item, text=""))
            case Retry(discarded=Discarded() as lost) if not options.include_reasoning:
                return replace(event, discarded=replace(lost, reasoning=""))
        return event
