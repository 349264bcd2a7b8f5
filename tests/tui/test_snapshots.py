"""The main states as pictures (SVG) and as text, in two sizes and two themes.

    DSV4_UPDATE_SNAPSHOTS=1 python -m pytest tests/tui/test_snapshots.py

writes them anew; look at the difference before it is committed. Time stands still in these apps.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from dsv4_agent.chat import outcomes
from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.chat.status import Phase
from dsv4_agent.loop.events import (
    AgentMessageItem,
    ApprovalRequested,
    CommandExecutionItem,
    Event,
    FileChangeInfo,
    FileChangeItem,
    ItemCompleted,
    ItemDelta,
    ItemStarted,
    ItemStatus,
    PrefixBreak,
    ReasoningItem,
    ToolCallItem,
    UserMessage,
)
from dsv4_agent.loop.facts import Breakdown, KvUse
from dsv4_agent.tui import app as app_module
from dsv4_agent.tui.app import ChatApp
from dsv4_agent.workbench.settings import Settings

FOLDER = Path(__file__).parent / "snapshots"
UPDATE = "DSV4_UPDATE_SNAPSHOTS" in os.environ
DIFF = "@@ -1,4 +1,4 @@\n import math\n \n-def area(r):\n+def circle_area(r):\n     return math.pi * r * r"
KV = KvUse(
    used=183_224,
    limit=1_048_576,
    reused=181_990,
    prefilled=1_234,
    bytes={"window": 4_000_000, "csa_entries": 61_000_000, "hca_entries": 2_100_000, "index_keys": 7_400_000},
)
PARTS = Breakdown(system=2_100, tools=1_800, memory=900, conversation=150_424, thinking=28_000)
ANSWER = """\
Renamed `area` to `circle_area`:

1. the definition in `shapes.py`
2. both uses in `report.py`

```python
def circle_area(r):
    return math.pi * r * r
```
"""


def talk() -> Iterable[Event]:
    done, failed = ItemStatus.COMPLETED, ItemStatus.FAILED
    yield UserMessage("Rename area to circle_area and run the tests.")
    yield ItemCompleted(ReasoningItem("i1", "First find every use of it.\nThen edit, then test.", 14))
    hits = "shapes.py:3:def area(r):\nreport.py:8:    total = area(2)\nreport.py:9:    other = area(3)"
    yield ItemCompleted(ToolCallItem("i2", "grep", {"pattern": r"\barea\b"}, done, hits, False, 12))
    change = FileChangeInfo("shapes.py", "update", 1, 1, DIFF)
    yield ItemCompleted(FileChangeItem("i3", "edit", "shapes.py", done, (change,), "exact", "Edited", 7))
    output = "F\nFAIL: test_area\nNameError: name 'area' is not defined\n[exit 1]"
    yield ItemCompleted(
        CommandExecutionItem("i4", "python3 -m unittest -q", status=failed, exit_code=1, output=output)
    )
    yield PrefixBreak("effort changed", 512)
    yield ItemCompleted(AgentMessageItem("i5", ANSWER))


class Still(ChatApp):
    """The app without its dialogue at work."""

    def _begin(self) -> None:
        self.composer.set_commands(self._showing.listing())


async def conversation(app: Still) -> None:
    for event in talk():
        app._showing.show(event)


async def working(app: Still) -> None:
    app._showing.show(UserMessage("Why is the build slow?"))
    app._showing.show(ItemStarted(ReasoningItem("i9")))
    app._showing.show(ItemDelta("i9", "The build reads every file twice.\nLook at the cache first.\n"))
    app.dialogue.status.phase = Phase.THINKING
    app.dialogue.pending.append("and check the CI too")
    app.dialogue.status.queued = 1
    app.after_event()


async def approval(app: Still) -> None:
    await conversation(app)
    change = FileChangeInfo("shapes.py", "update", 1, 1, DIFF)
    app.dialogue.status.phase = Phase.ASKING
    app._showing.show(
        ApprovalRequested(
            "i7",
            "edit",
            {"path": "shapes.py"},
            None,
            "mode",
            "permission mode default asks about edit",
            (change,),
        )
    )


async def command(app: Still) -> None:
    hostile = "rm -rf build && echo '\x1b[2J\u202edone' [/foo] [@click=app.quit]x[/]"
    app.dialogue.status.phase = Phase.ASKING
    app._showing.show(
        ApprovalRequested(
            "i7", "shell", {"command": hostile}, "shell(rm:*)", "rule", "the command contains U+001B"
        )
    )


async def context(app: Still) -> None:
    await app._showing.run_line("/context")


async def picking(app: Still) -> None:
    options = tuple(outcomes.Option(str(n), f"prompt number {n}", f"{n} turns") for n in range(4))
    app._showing._show(outcomes.Pick("Go back to before", options, "/rewind", "3"))


STATES: dict[str, Callable[[Still], object]] = {
    "conversation": conversation,
    "working": working,
    "approval": approval,
    "command": command,
    "context": context,
    "picking": picking,
}


@pytest.mark.parametrize("theme", ["dsv4-dark", "dsv4-light"])
@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
@pytest.mark.parametrize("state", STATES)
async def test_the_screen_is_as_it_was(
    state: str, size: tuple[int, int], theme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr(app_module, "__version__", "0.0.0")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)
    app = Still(ChatOptions(directory=Path()), Settings(theme=theme, reduced_motion=True))
    app.greeting_folder = "/home/you/shapes"
    async with app.run_test(size=size) as pilot:
        app.transcript._clock = app.transcript._projection._clock = lambda: 100.0
        status = app.dialogue.status
        status.model, status.backend, status.branch, status.phase = (
            "V4-Flash",
            "inprocess",
            "main",
            Phase.IDLE,
        )
        status.kv, status.breakdown, status.decode_tps, status.window = KV, PARTS, 41.0, KV.limit
        monkeypatch.setattr(type(status), "seconds", property(lambda _: 3.0))
        app.screen.query_one("DraftArea").cursor_blink = False
        await STATES[state](app)  # type: ignore[misc]
        app.after_event()
        await pilot.pause(0.2)
        picture = _normal(app.export_screenshot())
        text = "\n".join(row.rstrip() for row in _rows(app)) + "\n"
    name = f"{state}-{size[0]}x{size[1]}"
    _compare(FOLDER / f"{name}-{theme.removeprefix('dsv4-')}.svg", picture)
    _compare(FOLDER / f"{name}.txt", text)


def _rows(app: ChatApp) -> list[str]:
    width, height = app.size
    update = app.screen._compositor.render_strips()
    assert len(update) == height
    return [strip.text[:width] for strip in update]


def _normal(svg: str) -> str:
    """Without the number that Textual draws for each picture."""
    return re.sub(r"terminal-\d+", "terminal", svg)


def _compare(path: Path, seen: str) -> None:
    if UPDATE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(seen, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == seen, f"{path.name} differs; see the top of this file"
