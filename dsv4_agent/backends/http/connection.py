"""How a profile's server is connected to: headers, key, proxy, trust. httpx is imported here, late."""

from __future__ import annotations

import os
import re
import ssl
from typing import TYPE_CHECKING, Final

from dsv4_agent.backends.base import ModelError
from dsv4_agent.backends.http.address import Address
from dsv4_agent.backends.http.errors import clean
from dsv4_agent.backends.profile import ServerProfile
from dsv4_agent.version import __version__

if TYPE_CHECKING:
    import httpx

_IDLE: Final = 60.0
"""Seconds that a connection waits for the next request: a tool may take a while."""
_SHORT: Final = 8
"""Characters; a header's value that is shorter may stand in any text, and isn't secret."""
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")


def open_connection(profile: ServerProfile, address: Address) -> httpx.AsyncClient:
    """A client for one server; nothing is sent yet.

    A proxy comes from the profile, else from the environment, but never stands before this machine itself.
    Raises `ModelError` for headers, a CA or a proxy that can't be used; the message holds no secret.
    """
    import httpx

    headers = _headers(profile)
    # An SSL context takes a tenth of a second to make: not for a plain connection.
    verify = _trust(profile) if address.secure or profile.proxy else False
    try:
        return httpx.AsyncClient(
            headers=headers,
            verify=verify,
            proxy=profile.proxy,
            trust_env=not address.local,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=profile.timeouts.connect),
            limits=httpx.Limits(keepalive_expiry=_IDLE),
        )
    except ImportError as error:
        raise ModelError(
            f"model {profile.name}: the proxy speaks SOCKS, which needs one more package: "
            "pip install 'httpx[socks]', or name an HTTP proxy"
        ) from error
    except (ValueError, httpx.InvalidURL) as error:
        where = (
            "the profile's proxy" if profile.proxy else "a proxy variable of the environment (or NO_PROXY)"
        )
        # Its address may hold a password, so what httpx says of it is not repeated.
        raise ModelError(f"model {profile.name}: {where} can't be used; write http://HOST:PORT") from error


def proxy_of(profile: ServerProfile, address: Address) -> str | None:
    """Whose proxy stands between, in words; never its address, which may hold a password."""
    import urllib.request

    if profile.proxy is not None:
        return "the profile's proxy"
    proxies = {} if address.local else urllib.request.getproxies()
    names = [name for name in ("https" if address.secure else "http", "all") if name in proxies]
    if not names or urllib.request.proxy_bypass(address.host):
        return None
    return f"the proxy of {names[0].upper()}_PROXY"


def secrets_of(profile: ServerProfile) -> tuple[str, ...]:
    """What no message may hold: the key and the values of the profile's own headers, the longest first."""
    key = "" if profile.key is None else profile.key.reveal()
    values = [value for value in profile.headers.values() if len(value) >= _SHORT]
    return tuple(sorted(filter(None, (key, *values)), key=len, reverse=True))


def _headers(profile: ServerProfile) -> dict[str, str]:
    # Compression would only hold tokens back.
    usual = {"user-agent": f"dsv4/{__version__}", "accept-encoding": "identity"}
    own = {name.lower() for name in profile.headers}
    headers = {name: value for name, value in usual.items() if name not in own} | dict(profile.headers)
    if profile.key is not None:
        headers["authorization"] = f"Bearer {profile.key.reveal()}"
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            what = "its key" if name == "authorization" else f"its header {clean(name)}"
            raise ModelError(f"model {profile.name}: {what} holds characters that can't be sent; correct it")
    return headers


def _trust(profile: ServerProfile) -> ssl.SSLContext:
    """The CAs of the profile, else of the environment, the system's, and where it has none certifi's."""
    own, named = profile.ca_file, os.environ.get("SSL_CERT_FILE")
    folder = os.environ.get("SSL_CERT_DIR")
    file = str(own) if own is not None else named
    try:
        context = ssl.create_default_context(cafile=file, capath=None if own is not None else folder)
        if file is None and folder is None and not context.cert_store_stats()["x509_ca"]:
            import certifi

            context.load_verify_locations(certifi.where())
    except (OSError, ssl.SSLError) as error:
        setting = "ca_file" if own is not None else "SSL_CERT_FILE and SSL_CERT_DIR"
        raise ModelError(f"the CA file {file or folder} can't be used: {error}; check {setting}") from error
    return context
