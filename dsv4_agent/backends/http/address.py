"""Where a server's paths are, from the base URL that users know from other tools."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

_ENDPOINT = re.compile(r"(/chat)?/completions$")
_VERSION = re.compile(r"/v\d+[a-z0-9]*(/|$)")


class AddressError(ValueError):
    """A base URL can't be used; one line with the remedy."""


@dataclass(frozen=True, slots=True)
class Address:
    """`api` comes before `/chat/completions`, `root` before paths outside of the API such as `/health`."""

    root: str
    api: str

    @classmethod
    def of(cls, base_url: str) -> Self:
        """`https://host` or `https://host/v1`; an endpoint behind it is left out. Raises `AddressError`."""
        text = _ENDPOINT.sub("", base_url.strip().rstrip("/"))
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AddressError(f"base_url {base_url!r} is no address; write http://HOST:PORT or https://HOST")
        if parts.username or parts.password:
            raise AddressError("base_url holds a user or a password; keep keys out of addresses")
        if parts.query or parts.fragment:
            raise AddressError(f"base_url {base_url!r} has a query; leave it out")
        # HTTPS:// is https: it must not be taken for an open line, where no certificate is looked at.
        text = parts.scheme + text[len(parts.scheme) :]
        if text.endswith("/v1"):
            return cls(text.removesuffix("/v1"), text)
        if _VERSION.search(parts.path):
            return cls(f"{parts.scheme}://{parts.netloc}", text)
        return cls(text, f"{text}/v1")

    @property
    def secure(self) -> bool:
        """Whether it is https."""
        return self.root.startswith("https:")

    @property
    def local(self) -> bool:
        """Whether it is this machine, by its usual names."""
        host = urlsplit(self.root).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.root).netloc
