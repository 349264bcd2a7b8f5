"""The form of a `[models.NAME]` table: what may stand in it, and that it makes sense."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from dsv4_agent.backends.profile import Prices, ServerProfile, ServerProtocol, Timeouts
from dsv4_agent.dsml.dialect import Dialect

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_TEXT: Final = re.compile(r"[ -~]{1,4096}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_EFFORT: Final = re.compile(r"off|low|high|max|[1-9][0-9]?|100")


def _address(text: str, schemes: tuple[str, ...]) -> str:
    allowed = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"an address that begins with {allowed}") from None
    if parts.scheme not in schemes or not host or not _TEXT.fullmatch(text) or " " in text:
        raise ValueError(f"an address that begins with {allowed}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address without a user name or password in it")
    if parts.query or parts.fragment:
        raise ValueError("an address without ? and #")
    return text.rstrip("/")


def _base_url(text: str) -> str:
    return _address(text, ("http", "https"))


def _proxy(text: str) -> str:
    return _address(text, ("http", "https", "socks5", "socks5h"))


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or not _TEXT.fullmatch(value):
            raise ValueError("names and values of HTTP headers, in ASCII")
    return headers


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise ValueError("the name of an environment variable (never the key itself)")
    return text


def _line(text: str) -> str:
    if not text or len(text) > 512 or not text.isprintable():
        raise ValueError("a line of text")
    return text


def _preset(text: str) -> str:
    if text not in ("default", "nano"):
        raise ValueError("default or nano")
    return text


def _effort(value: object) -> str:
    text = str(value)
    if isinstance(value, bool) or not _EFFORT.fullmatch(text):
        raise ValueError("off, low, high, max, or 1 to 100 for V4.1")
    return text


Line = Annotated[str, AfterValidator(_line)]
Price = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Seconds = Annotated[PositiveFloat, Field(le=86_400, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TimeoutsTable(_Table):
    """Seconds."""

    connect: Seconds = Timeouts().connect
    first_token: Seconds = Timeouts().first_token
    silence: Seconds = Timeouts().silence


class PricesTable(_Table):
    """Prices of a million tokens."""

    hit: Price
    miss: Price
    output: Price
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"


class ProfileTable(_Table):
    """One `[models.NAME]`."""

    base_url: Annotated[str, AfterValidator(_base_url)]
    protocol: Annotated[ServerProtocol | None, Field(strict=False)] = None
    model: Line | None = None
    dialect: Annotated[Dialect | None, Field(strict=False)] = None
    preset: Annotated[str, AfterValidator(_preset)] | None = None
    context: Annotated[PositiveInt, Field(le=1 << 30)] | None = None
    tokenizer: Line | None = None
    effort: Annotated[str | int, AfterValidator(_effort)] | None = None
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[PositiveInt, Field(le=1 << 30)] | None = None
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(default_factory=dict)
    ca_file: Line | None = None
    proxy: Annotated[str, AfterValidator(_proxy)] | None = None
    key_env: Annotated[str, AfterValidator(_variable)] | None = None
    timeouts: TimeoutsTable = TimeoutsTable()
    retries: Annotated[int, Field(ge=0, le=100)] = 5
    prices: PricesTable | None = None

    def profile(self, name: str) -> ServerProfile:
        """The profile, without a key."""
        prices = self.prices
        return ServerProfile(
            name=name,
            base_url=self.base_url,
            protocol=self.protocol,
            model=self.model,
            dialect=self.dialect,
            preset=self.preset,
            context=self.context,
            tokenizer=None if self.tokenizer is None else _home(self.tokenizer),
            effort=None if self.effort is None else str(self.effort),
            temperature=self.temperature,
            top_p=self.top_p,
            min_p=self.min_p,
            max_tokens=self.max_tokens,
            headers=self.headers,
            ca_file=None if self.ca_file is None else Path(_home(self.ca_file)),
            proxy=self.proxy,
            timeouts=Timeouts(**self.timeouts.model_dump()),
            retries=self.retries,
            prices=None if prices is None else Prices(**prices.model_dump()),
        )

    @classmethod
    def known(cls, tables: Sequence[str] = ()) -> list[str]:
        """The keys of this table, or of `timeouts` or `prices` in it."""
        inner: dict[str, type[BaseModel]] = {"timeouts": TimeoutsTable, "prices": PricesTable}
        table = inner.get(tables[-1], cls) if tables else cls
        return sorted(table.model_fields)


def _home(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~") else path
