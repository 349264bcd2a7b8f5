"""The client against a real socket: what it asks, what it takes, and how it fails."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import sys
import traceback
from typing import Any

import pytest

from dsv4_agent.backends.base import ModelError
from dsv4_agent.backends.http import client as client_module
from dsv4_agent.backends.http.address import Address, AddressError
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.http.errors import BrokenStreamError, ServerError
from dsv4_agent.backends.profile import Secret, ServerProfile, Timeouts

SECRET = "sk-very-secret"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


@pytest.mark.parametrize(
    ("given", "root", "api"),
    [
        ("http://h:1", "http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1", "http://h:1/v1"),
        ("https://h/proxy/v1", "https://h/proxy", "https://h/proxy/v1"),
        ("https://h/v1beta/openai", "https://h", "https://h/v1beta/openai"),
        ("https://h/anthropic", "https://h/anthropic", "https://h/anthropic/v1"),
        ("HTTPS://h/v1", "https://h", "https://h/v1"),
        ("https://h/api/v1/chat/completions", "https://h/api", "https://h/api/v1"),
        ("http://h:1/v1/completions/", "http://h:1", "http://h:1/v1"),
    ],
)
def test_addresses(given: str, root: str, api: str) -> None:
    address = Address.of(given)
    assert (address.root, address.api) == (root, api)


@pytest.mark.parametrize(
    "given", ["", "h:1", "ftp://h", "http://", "http://u:p@h", "http://h?x=1", "file:///x"]
)
def test_bad_addresses(given: str) -> None:
    with pytest.raises(AddressError):
        Address.of(given)
    with pytest.raises(ModelError, match="model m: base_url"):
        ServerClient(ServerProfile(name="m", base_url=given))


async def collect(client: ServerClient, body: bytes = b"{}") -> list[str]:
    try:
        return [data async for data in client.stream("completions", body)]
    finally:
        await client.aclose()


async def test_a_stream_with_done_and_one_without(serve: Any) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        await exchange.send(b'data: {"a": 1}\n\n: ping\n\ndata: {"a": 2}\n\n')
        if b"done" in exchange.body:
            await exchange.send(b"data: [DONE]\n\ndata: never\n\n")
        exchange.writer.close()

    server = await serve(handler)
    for body in (b'{"done": 1}', b"{}"):
        assert await collect(ServerClient(server.profile()), body) == ['{"a": 1}', '{"a": 2}']
    first = server.seen[0]
    assert (first.method, first.path) == ("POST", "/v1/completions")
    assert first.headers["authorization"] == f"Bearer {SECRET}"
    assert first.headers["content-type"] == "application/json"


async def test_a_whole_answer_to_a_streamed_request_is_one_event(serve: Any) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(body=b'{"whole": true}')

    server = await serve(handler)
    assert await collect(ServerClient(server.profile())) == ['{"whole": true}']


@pytest.mark.parametrize(
    ("status", "body", "retryable", "unreachable", "words"),
    [
        (401, b'{"error": {"message": "bad key sk-very-secret"}}', False, True, "refuses the key"),
        (404, b'{"detail": "no model x"}', False, False, "no model x"),
        (400, b'{"error": {"message": "context length exceeded"}}', False, False, "context length"),
        (422, b'{"detail": [{"loc": ["body"], "msg": "extra fields"}]}', False, False, "extra fields"),
        (429, b"slow down", True, True, "slow down"),
        (500, b"<html><h1>Oh\x1b[2J no</h1></html>", True, True, "Oh [2J no"),
        (503, b"", True, True, "can't answer now (503)"),
        (302, b"", False, False, "not followed"),
        (402, b"{}", False, True, "wants payment"),
        (529, b'["overloaded"]', True, True, "overloaded"),
        (500, b"[" * 60_000, True, True, "[[["),
    ],
)
async def test_statuses(
    serve: Any, status: int, body: bytes, retryable: bool, unreachable: bool, words: str
) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(status, body, location="http://elsewhere.example/")

    server = await serve(handler)
    with pytest.raises(ServerError) as caught:
        await collect(ServerClient(server.profile()))
    error = caught.value
    assert (error.status, error.retryable, error.unreachable) == (status, retryable, unreachable)
    message = str(error)
    assert words in message
    assert SECRET not in message and "\n" not in message and "\x1b" not in message
    assert len(server.seen) == 1  # a redirect was not followed


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3), ("0.5", 0.5), ("-1", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", None)],
)
async def test_retry_after(serve: Any, header: str, seconds: float | None) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(429, b"", retry_after=header)

    server = await serve(handler)
    with pytest.raises(ServerError) as caught:
        await collect(ServerClient(server.profile()))
    assert caught.value.retry_after == seconds


async def test_nobody_there() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    client = ServerClient(ServerProfile(name="m", base_url=f"http://127.0.0.1:{port}"))
    with pytest.raises(ServerError) as caught:
        await collect(client)
    assert caught.value.unreachable and caught.value.retryable
    assert "can't be reached" in str(caught.value)


@pytest.mark.parametrize("after", ["nothing", "headers", "token"])
async def test_silence(serve: Any, after: str) -> None:
    async def handler(exchange: Any) -> None:
        if after != "nothing":
            await exchange.begin()
        if after == "token":
            await exchange.send(b"data: x\n\n")
        await asyncio.sleep(30)

    server = await serve(handler)
    times = Timeouts(first_token=0.05 if after != "token" else 10, silence=0.05)
    with pytest.raises(ServerError) as caught:
        await collect(ServerClient(server.profile(timeouts=times)))
    assert caught.value.reason == "silence"
    assert caught.value.retryable and "raise the profile's timeouts" in str(caught.value)


async def test_silence_under_a_limit_that_no_setting_moves(serve: Any) -> None:
    async def handler(exchange: Any) -> None:
        await asyncio.sleep(30)

    server = await serve(handler)
    client = ServerClient(server.profile())
    with pytest.raises(ServerError, match=r"said nothing for 0\.05 s; if it is starting, try again"):
        await client.get_json("models", seconds=0.05)
    await client.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        STREAM + b"content-length: 100\r\n\r\ndata: x\n\n",
        STREAM + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        STREAM + b"transfer-encoding: chunked\r\n\r\n9\r\ndata: x",
        STREAM + b"content-encoding: gzip\r\n\r\nnot gzip",
    ],
)
async def test_connections_that_break(serve: Any, answer: bytes) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.send(answer)
        exchange.writer.close()

    server = await serve(handler)
    with pytest.raises(ServerError) as caught:
        await collect(ServerClient(server.profile()))
    assert caught.value.retryable, caught.value
    assert isinstance(caught.value, BrokenStreamError) or caught.value.unreachable


async def test_answers_without_end_are_cut(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BODY_LIMIT", 10_000)

    async def handler(exchange: Any) -> None:
        await exchange.begin("application/json")
        while True:
            await exchange.send(b"x" * 5_000)

    server = await serve(handler)
    client = ServerClient(server.profile())
    with pytest.raises(ServerError, match="over 9 KiB"):
        await client.get_json("models")
    await client.aclose()


async def test_json_and_what_is_not(serve: Any) -> None:
    async def handler(exchange: Any) -> None:
        body = b"[" * 100_000 if exchange.path == "/deep" else b"<html>\x1b]0;x\x07"
        if exchange.path == "/v1/models":
            body = b'{"data": []}'
        await exchange.answer(body=body)

    server = await serve(handler)
    client = ServerClient(server.profile())
    assert await client.get_json("models") == {"data": []}
    assert json.loads(server.seen[0].body or b"null") is None
    for path in ("/health", "/deep"):
        with pytest.raises(ServerError, match="not JSON") as caught:
            await client.get_json(path)
        assert "\x1b" not in str(caught.value)
    await client.aclose()


async def test_closing_the_iterator_ends_the_request(serve: Any) -> None:
    gone = asyncio.Event()

    async def handler(exchange: Any) -> None:
        await exchange.begin()
        await exchange.send(b"data: x\n\n")
        try:
            while True:
                await exchange.send(b": still here\n\n")
                await asyncio.sleep(0.005)
        finally:
            gone.set()

    server = await serve(handler)
    client = ServerClient(server.profile())
    stream = client.stream("completions", b"{}")
    assert await anext(stream) == "x"
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(gone.wait(), 10)
    await client.aclose()


async def test_the_key_is_in_no_text(serve: Any) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(500, f"you said Bearer {SECRET}".encode())

    server = await serve(handler)
    profile = server.profile()
    assert SECRET not in repr(profile) and SECRET not in str(profile)
    client = ServerClient(profile)
    try:
        await collect(client)
    except ServerError:
        assert SECRET not in traceback.format_exc()


async def test_a_ca_file_that_is_none(tmp_path: Any) -> None:
    profile = ServerProfile(name="m", base_url="https://127.0.0.1:1", ca_file=tmp_path / "none.pem")
    with pytest.raises(ModelError, match="check ca_file"):
        await collect(ServerClient(profile))


@pytest.mark.parametrize(
    ("key", "headers", "words"),
    [
        ("sk-\nsecret-1", {}, "its key"),
        ("sk-sécret-1", {}, "its key"),
        ("sk", {"x-team": "secret-1\r\nhost: evil"}, "its header x-team"),
        ("sk", {"bad name": "v"}, "its header bad name"),
    ],
)
async def test_headers_that_cannot_be_sent_are_named_and_not_shown(
    serve: Any, key: str, headers: dict[str, str], words: str
) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(body=b"{}")

    server = await serve(handler)
    profile = server.profile(key=Secret(key), headers=headers)
    with pytest.raises(ModelError, match=words) as caught:
        await collect(ServerClient(profile))
    assert "cret-1" not in "".join(traceback.format_exception(caught.value))
    assert server.seen == []


async def test_secret_headers_are_in_no_message(serve: Any) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(400, exchange.headers["api-key"].encode())

    server = await serve(handler)
    with pytest.raises(ServerError, match=r"\[key\]") as caught:
        await collect(ServerClient(server.profile(headers={"api-key": "azure-0123456789"})))
    assert "0123456789" not in str(caught.value)


async def test_a_redirect_does_not_repeat_the_key(serve: Any) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(302, location=f"http://evil.example/?k={SECRET}")

    server = await serve(handler)
    with pytest.raises(ServerError, match="set that as base_url") as caught:
        await collect(ServerClient(server.profile()))
    assert SECRET not in str(caught.value)


async def test_a_redirect_is_told_as_the_base_url_that_it_means(serve: Any) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(308, location=f"https://there.example{exchange.path}")

    server = await serve(handler)
    with pytest.raises(ServerError, match=r"points to https://there\.example/v1 \(308\)"):
        await collect(ServerClient(server.profile()))


async def test_a_proxy_stands_before_other_machines_only(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(body=b'{"via": "proxy"}' if exchange.path.startswith("http") else b"{}")

    server = await serve(handler)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    away = ServerClient(server.profile(base_url="http://model.example:8000"))
    assert await away.get_json("models") == {"via": "proxy"}
    assert server.seen[-1].path == "http://model.example:8000/v1/models"
    here = ServerClient(server.profile())
    assert await here.get_json("models") == {}
    monkeypatch.delenv("http_proxy")
    named = ServerClient(server.profile(base_url="http://model.example", proxy=server.url))
    assert await named.get_json("models") == {"via": "proxy"}
    for client in (away, here, named):
        await client.aclose()


@pytest.mark.parametrize("proxy", ["ftp://u:hidden-word@h", "socks5://u:hidden-word@h:1", "http://[::1"])
@pytest.mark.parametrize("own", [True, False])
async def test_a_proxy_that_cannot_be_used(proxy: str, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "" if own else proxy)
    given = {"proxy": proxy} if own else {}
    profile = ServerProfile(name="m", base_url="http://model.example", **given)
    with pytest.raises(ModelError, match=r"model m: .*proxy") as caught:
        await collect(ServerClient(profile))
    assert "hidden-word" not in str(caught.value)


async def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "no_proxy",
        "NO_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://u:pass-word@127.0.0.1:1")
    for url, proxy, said in (
        ("http://gpu.example", None, "by the proxy of HTTP_PROXY: "),
        ("http://127.0.0.1:1", "http://127.0.0.1:1", "by the profile's proxy: "),
        ("http://127.0.0.1:1", None, "reached: "),
    ):
        client = ServerClient(ServerProfile(name="m", base_url=url, proxy=proxy))
        with pytest.raises(ServerError, match=said) as caught:
            await client.get_json("models")
        assert "pass-word" not in str(caught.value)
        await client.aclose()


async def test_a_header_of_the_profile_replaces_ours(serve: Any) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(body=b"{}")

    server = await serve(handler)
    client = ServerClient(server.profile(headers={"User-Agent": "mine/1"}))
    await client.get_json("models")
    assert client._client is not None and client._client.headers.get_list("user-agent") == ["mine/1"]
    assert server.seen[0].headers["accept-encoding"] == "identity"
    await client.aclose()


async def test_a_web_page_is_no_stream(serve: Any) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(body=b"<html>Please log in</html>", kind="text/html; charset=utf-8")

    server = await serve(handler)
    with pytest.raises(ServerError, match="check base_url") as caught:
        await collect(ServerClient(server.profile()))
    assert not caught.value.retryable


@pytest.mark.parametrize(("piece", "lives"), [(b": at work\n\n", True), (b"x", False)])
async def test_comments_are_a_sign_of_life_and_a_line_without_end_is_none(
    serve: Any, piece: bytes, lives: bool
) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        for _ in range(12):
            await exchange.send(piece)
            await asyncio.sleep(0.05)
        await exchange.send(b"\n\ndata: done\n\n")
        exchange.writer.close()

    server = await serve(handler)
    client = ServerClient(server.profile(timeouts=Timeouts(first_token=0.3, silence=0.3)))
    if lives:
        assert await collect(client) == ["done"]
        return
    with pytest.raises(ServerError) as caught:
        await collect(client)
    assert caught.value.reason == "silence"


async def test_the_environments_ca_file_is_named(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ModelError, match="check SSL_CERT_FILE"):
        await collect(ServerClient(ServerProfile(name="m", base_url="https://127.0.0.1:1")))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_a_certificate_is_trusted_where_the_profile_says_so(tmp_path: Any) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    trusting = ServerClient(ServerProfile(name="m", base_url=url, ca_file=certificate))
    assert await trusting.get_json("models") == {}
    await trusting.aclose()
    for spelling in (url, url.replace("https", "HTTPS")):
        wary = ServerClient(ServerProfile(name="m", base_url=spelling))
        with pytest.raises(ServerError, match="set the profile's ca_file") as caught:
            await wary.get_json("models")
        assert caught.value.unreachable and not caught.value.retryable
        await wary.aclose()
    server.close()
