"""The generations of the wire format: tokens, tags, effort tables (from the encoders shipped with V4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from dsv4_agent.dsml.errors import InvalidEffortError
from dsv4_agent.dsml.templates import EFFORT_ABSOLUTE, EFFORT_BEYOND

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
SYSTEM = "<｜System｜>"
LATEST_REMINDER = "<｜latest_reminder｜>"
THINK = "<think>"
END_THINK = "</think>"
DSML = "｜DSML｜"

TASK_TOKENS: Mapping[str, str] = MappingProxyType(
    {task: f"<｜{task}｜>" for task in ("action", "query", "authority", "domain", "title", "read_url")}
)


class Dialect(StrEnum):
    """Which checkpoint the prompt is for; neither config.json nor the tokenizer tells."""

    V4 = "v4"
    V4_0731 = "v4-0731"
    V41 = "v4.1"


class Encoder(StrEnum):
    """Whose bytes to write: the encoder shipped with the checkpoint, or that of the hosted API."""

    CHECKPOINT = "checkpoint"
    API = "api"


class Thinking(StrEnum):
    """Whether the model writes its reasoning before the answer."""

    THINKING = "thinking"
    CHAT = "chat"


class GrammarMode(StrEnum):
    """`on` masks; `counted` only counts what would have been masked away; `off` does neither."""

    OFF = "off"
    ON = "on"
    COUNTED = "counted"


@dataclass(frozen=True, slots=True)
class Tags:
    """Tag heads of a call block, without the `<` or `</` before them."""

    calls: str
    invoke: str
    parameter: str


_V4_TAGS = Tags(f"{DSML}tool_calls", f"{DSML}invoke", f"{DSML}parameter")
_V41_TAGS = Tags(f"{DSML} calls", f"{DSML} invoke", f"{DSML} parameter")
_V41_EFFORTS: Mapping[str, int] = MappingProxyType({"low": 50, "high": 75, "xhigh": 75, "max": 100})


def tags_of(dialect: Dialect) -> Tags:
    """The tag spelling of a dialect (V4.1 puts a space behind the marker)."""
    return _V41_TAGS if dialect is Dialect.V41 else _V4_TAGS


def effort_prefix(effort: str | int | None, dialect: Dialect) -> str:
    """The text that stands before the first message in thinking mode; empty where there is none.

    Raises `InvalidEffortError` for a level that the dialect does not have. None is the encoder's default.
    """
    match dialect:
        case Dialect.V4:
            table: Mapping[str, str] = {"high": "", "max": EFFORT_ABSOLUTE}
            default = "high"
        case Dialect.V4_0731:
            table = {"low": "", "high": EFFORT_ABSOLUTE, "max": EFFORT_BEYOND}
            default = "low"
        case Dialect.V41:
            return _numeric_effort(effort)
    level = default if effort is None else effort
    if not isinstance(level, str) or level not in table:
        raise InvalidEffortError(
            f"Invalid reasoning effort: {effort} (dialect {dialect} knows {', '.join(table)})"
        )
    return table[level]


def _numeric_effort(effort: str | int | None) -> str:
    level = "high" if effort is None else effort
    if isinstance(level, str):
        number = _V41_EFFORTS.get(level)
        if number is None and level.isascii() and level.isdigit() and len(level) <= 3:
            number = int(level)
    else:
        number = None if isinstance(level, bool) else level
    if number is None or not 1 <= number <= 100:
        raise InvalidEffortError(
            f"Invalid reasoning effort for deepseek_v41: {effort}, should be int within [1,100]"
            f" or {list(_V41_EFFORTS)}"
        )
    return (
        f"Reasoning Effort: {number} (range 1-100, the higher the value, the more thorough the reasoning)\n\n"
    )
