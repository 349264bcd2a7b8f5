"""How a server was asked for; light, for command lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dsv4_agent.dsml.dialect import Dialect
from dsv4_agent.workbench.model_options import NANO, EngineChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The options of `dsv4 serve`; see its help. `seconds` and `patience` are in seconds.

    `announce` lets `chat` and `run` of the same user find the server; one that belongs to another program,
    and ends with it, is not announced.
    """

    model: str = NANO
    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    without_token: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    sequences: int = 32
    queue: int = 128
    max_tokens: int = 65_536
    seconds: float = 1800.0
    idle_bytes: int = 1 << 30
    patience: float = 10.0
    dialect: Dialect | None = None
    announce: bool = True
    engine: EngineChoice = field(default_factory=EngineChoice)
