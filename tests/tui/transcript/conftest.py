"""What the transcript's tests share: hostile strings, a session, a host application."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from textual.app import App, ComposeResult

from dsv4_agent.loop.events import (
    AgentMessageItem,
    CommandExecutionItem,
    Event,
    FileChangeInfo,
    FileChangeItem,
    ItemCompleted,
    ItemDelta,
    ItemStarted,
    ItemStatus,
    ReasoningItem,
    ToolCallItem,
    UserMessage,
)
from dsv4_agent.tui.theme import THEMES
from dsv4_agent.tui.transcript.view import TranscriptView

DIFF = """@@ -10,3 +10,4 @@ def parse(text):
     fields = text.split(",")
-    return None
+    # A comment.
+    raise ParseError(fields)
     name = 1
"""
ANSWER = """The parser **rejects** empty lines, see [the docs](https://example.org).

1. one
   - deeper, with enough words to be wrapped on a narrow screen
2. two

```python
def read(lines):
    return [1, "two"]
```

| Case | Result |
|---|---|
| empty | `ParseError` |

> Quoted.
"""


class Host(App[None]):
    """Nothing but a transcript. Its clock stands still, so that no duration differs."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: list[tuple[bool, int]] = []

    def on_transcript_view_position_changed(self, message: TranscriptView.PositionChanged) -> None:
        self.positions.append((message.follow, message.lines_below))

    def compose(self) -> ComposeResult:
        yield TranscriptView(clock=lambda: 100.0)

    def on_mount(self) -> None:
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = "dsv4-dark"

    @property
    def view(self) -> TranscriptView:
        return self.query_one(TranscriptView)


def session(turns: int, *, streamed: bool = False) -> Iterator[Event]:
    """`turns` turns with five events each, or the same turns as they stream."""
    output = "\n".join(f"src/module_{number}.py: something found" for number in range(20))
    for turn in range(turns):
        change = FileChangeInfo("src/x.py", "update", 2, 1, DIFF)
        items = (
            ReasoningItem(f"r{turn}", f"Thinking of {turn}. " * 20, 90),
            CommandExecutionItem(f"c{turn}", "pytest -q", ".", False, ItemStatus.COMPLETED, 0, output),
            FileChangeItem(f"f{turn}", "edit", "src/x.py", ItemStatus.COMPLETED, (change,)),
            ToolCallItem(f"t{turn}", "grep", {"pattern": "def"}, ItemStatus.COMPLETED, "a.py:1:def"),
            AgentMessageItem(f"a{turn}", f"Answer {turn}. {ANSWER}"),
        )
        yield UserMessage(f"question {turn}")
        for item in items:
            if streamed:
                yield ItemStarted(_begun(item))
                if isinstance(item, ReasoningItem | AgentMessageItem):
                    for start in range(0, len(item.text), 7):
                        yield ItemDelta(item.id, item.text[start : start + 7])
            yield ItemCompleted(item)


def _begun(item: object) -> object:
    match item:
        case ReasoningItem():
            return ReasoningItem(item.id)
        case AgentMessageItem():
            return AgentMessageItem(item.id)
        case CommandExecutionItem():
            return CommandExecutionItem(item.id, item.command)
        case FileChangeItem():
            return FileChangeItem(item.id, item.tool, item.path)
        case ToolCallItem():
            return ToolCallItem(item.id, item.tool, item.input)
    raise AssertionError(item)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def make_session() -> Callable[..., Iterator[Event]]:
    return session


@pytest.fixture
def diff() -> str:
    return DIFF


@pytest.fixture
def answer() -> str:
    return ANSWER


@pytest.fixture(
    params=[
        "[/foo]",
        "[@click=app.quit]x[/]",
        "rm a[i] -rf b[j]",
        "\x1b]52;c;aGVsbG8=\x07 \x1b[2J \x9b31m",
        "safe\u202egnp.exe \u2066x\u2069",
        "lone \ud800 surrogate \udfff",
        "zero\u200dwidth\u200d\u200d \u200d👩\u200d👩\u200d👧\ufe0f ❤\ufe0f" * 9,
        "e\u0301" * 300 + "\u0301" * 500,
        "x" * 100_000,
        "日本語" * 2_000,
        "word " * 9_000,
        "\ttabs\there\t\t.",
        "👩‍💻 emoji 🇩🇪 🏳️‍🌈 " * 30,
        "line\rover\r\nnext\x0b\x0c\x85\u2028\u2029end",
        "&#x202e;&#27;&#13;&#10; &lt;b&gt; <b onclick='x'>html</b>",
        "<script>\n\x1b[31malert(1)\n</script>",
        "[a](javascript:alert(1)) ![i](x\x1by) <https://e.org/\u202e>",
        "> " * 200 + "deep",
        "- " * 100 + "deep",
        "\n".join("  " * depth + "- item at a depth" for depth in range(30)),
        "| a | b |\n|---|---|\n| \x1b[0m | 日本語日本語日本語日本語日本語 |\n| only |",
        "|" + "x|" * 60 + "\n|" + "-|" * 60 + "\n|" + "y|" * 60,
        "```python\n\x1b[31m'''\n\tx = '日本語'\n" + "z" * 700 + "\n```\n~~~\nopen",
        "# " + "heading " * 40 + "\n\n---\n\n***\n1986. x\n\n0) y",
        "@@ -1,2 +1,2 @@\n-a\n+\x1b[0mb\n \tc\n… 9 more lines\n@@ -999999999 +1 @@\nrubbish",
        "*" * 3_000,
        "[" * 3_000,
        "`" * 30 + "a" + "``" * 40,
        "",
        "\n\n\n",
        "   ",
    ],
    ids=lambda text: ascii(text[:16]),
)
def naughty(request: pytest.FixtureRequest) -> str:
    return request.param
