"""A server that answers for the model: where it is, how to speak to it, what it may cost.

Profiles come from the user's own configuration, the environment or the command line, never from a repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from dsv4_agent.dsml.dialect import Dialect


class ServerProtocol(StrEnum):
    """`tokens`: a raw completions endpoint, where the agent renders and parses; `chat`: chat completions."""

    TOKENS = "tokens"
    CHAT = "chat"


class Secret:
    """A key that shows itself only to who asks: not in a repr, a log or a traceback."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the header of a request."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds: to connect, until the first token (a long prompt takes its time), between two tokens."""

    connect: float = 10.0
    first_token: float = 600.0
    silence: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Price of a million tokens: of the prompt, in the server's cache or not, and of the answer."""

    hit: float
    miss: float
    output: float
    currency: str = "USD"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProfile:
    """How to reach a model. `None` means: what the server says, else the usual.

    `base_url` is what comes before `/v1/...`'s last parts, as users know it from other tools
    (`https://api.deepseek.com`, `http://127.0.0.1:8000/v1`). `model` is the server's name for the model;
    `tokenizer` is `deepseek-v4`, `nano`, a folder with a tokenizer.json, or `server` (its `/tokenize`);
    `preset` names the frozen prefix (`default` or `nano`). `retries` counts attempts after the first.
    """

    name: str
    base_url: str
    protocol: ServerProtocol | None = None
    model: str | None = None
    dialect: Dialect | None = None
    preset: str | None = None
    context: int | None = None
    tokenizer: str | None = None
    effort: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    proxy: str | None = None
    key: Secret | None = field(default=None, repr=False)
    timeouts: Timeouts = Timeouts()
    retries: int = 5
    prices: Prices | None = None
