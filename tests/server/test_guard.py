"""Who is let in: host names, origins, tokens; what is too large; what errors may tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dsv4_agent.server.guard import GuardRules
from dsv4_agent.server.limits import Limits
from dsv4_agent.server.messages_body import MessagesBody
from dsv4_agent.server.tokens import token_of
from dsv4_agent.workbench.failures import RunFailure
from tests.model import tiny
from tests.server.conftest import Served, serving

TOKEN = "an-example-token-of-this-test"
RULES = GuardRules(
    tokens=(TOKEN,), hosts=frozenset({"box.lan", "::", "2001:db8::7"}), origins=frozenset({"http://page.lan"})
)


@pytest.fixture
async def guarded() -> AsyncIterator[Served]:
    async with serving(tiny.engine(), Limits(body_bytes=1000), RULES) as served:
        yield served


def allowed(**headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}", **headers}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"x-api-key": "wrong"},
        {"Cookie": f"token={TOKEN}"},
    ],
)
async def test_without_the_token_nothing_is_served(guarded: Served, headers: dict[str, str]) -> None:
    for path in ("/v1/models", "/v1/completions", "/v1/chat/completions", "/anything"):
        response = await guarded.http.post(path, headers=headers, json={"prompt": [20]})
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
    assert guarded.source.scheduler.counts.admitted == 0


async def test_the_token_opens_in_either_header(guarded: Served) -> None:
    for headers in (allowed(), {"authorization": f"bearer {TOKEN}"}, {"x-api-key": TOKEN}):
        assert (await guarded.http.get("/v1/models", headers=headers)).status_code == 200


async def test_health_tells_everyone_that_someone_is_there_and_nothing_else(guarded: Served) -> None:
    assert (await guarded.http.get("/health")).json() == {"status": "ok"}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1:8400",
        "127.9.9.9",
        "[::1]:80",
        "box.lan:1",
        "[::]:80",
        "[2001:DB8::0:7]",
    ],
)
async def test_names_of_this_machine_are_answered(guarded: Served, host: str) -> None:
    assert (await guarded.http.get("/v1/models", headers=allowed(Host=host))).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "box.lan.x"]
)
async def test_other_names_are_not(guarded: Served, host: str) -> None:
    response = await guarded.http.get("/health", headers=allowed(Host=host))
    assert response.status_code == 421 and response.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000"])
async def test_pages_are_refused_and_no_answer_opens_itself_to_them(guarded: Served, origin: str) -> None:
    for method in ("GET", "OPTIONS"):
        response = await guarded.http.request(method, "/v1/models", headers=allowed(Origin=origin))
        assert response.status_code == 403
        assert not any(name.startswith("access-control") for name in response.headers)


async def test_an_allowed_origin_is_served_by_its_name(guarded: Served) -> None:
    page = "http://page.lan"
    response = await guarded.http.get("/v1/models", headers=allowed(Origin=page))
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == page
    asking = {
        "Origin": page,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os,anthropic-version",
    }
    before = await guarded.http.options("/v1/completions", headers=asking)
    assert before.status_code == 200 and before.headers["access-control-allow-origin"] == page
    assert "x-stainless-os" in before.headers["access-control-allow-headers"]
    without = await guarded.http.post("/v1/completions", headers={"Origin": page}, json={"prompt": [20]})
    assert without.status_code == 401 and without.headers["access-control-allow-origin"] == page


async def test_a_large_body_is_refused_by_its_length_and_by_its_bytes(guarded: Served) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 512

    by_length = await guarded.http.post("/v1/completions", headers=allowed(), content=b" " * 2000)
    by_bytes = await guarded.http.post("/v1/completions", headers=allowed(), content=endless())
    assert by_length.status_code == by_bytes.status_code == 413


async def test_unknown_paths_and_methods_have_the_shape_of_an_error(guarded: Served) -> None:
    missing = await guarded.http.get("/etc/passwd", headers=allowed())
    wrong = await guarded.http.get("/v1/completions", headers=allowed())
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert missing.json()["error"]["message"] == "Not Found."
    assert wrong.json()["error"]["code"] == "method_not_allowed" and wrong.headers["allow"] == "POST"


async def test_a_mistake_of_the_program_tells_nothing_of_the_request(
    guarded: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(*_: object, **__: object) -> None:
        raise KeyError("the user's secret")

    monkeypatch.setattr("dsv4_agent.server.completions._refuse", mistaken)
    response = await guarded.http.post("/v1/completions", headers=allowed(), json={"prompt": "secret"})
    assert response.status_code == 500 and "secret" not in response.text
    assert "KeyError" in caplog.text and "secret" not in caplog.text


def test_the_token_is_made_given_or_read(tmp_path: Path) -> None:
    made = {token_of(None, None, without=False, host="127.0.0.1") for _ in range(2)}
    assert len(made) == 2 and all(token is not None and len(token) > 40 for token in made)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    assert token_of(None, file, without=False, host="0.0.0.0") == TOKEN
    file.chmod(0o644)
    with pytest.raises(RunFailure, match="read by others"):
        token_of(None, file, without=False, host="127.0.0.1")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.4", "box.lan", "::"])
def test_without_a_token_only_this_machine_is_served(host: str) -> None:
    with pytest.raises(RunFailure, match="without a token anyone"):
        token_of(None, None, without=True, host=host)
    assert token_of(None, None, without=True, host="::1") is None


def test_a_token_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(RunFailure, match="at least 16"):
        token_of("secret", None, without=False, host="127.0.0.1")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "kind"),
    [
        ("POST", "/v1/messages", {}, 401, "authentication_error"),
        ("POST", "/v1/messages", allowed(Origin="http://evil.lan"), 403, "permission_error"),
        ("POST", "/v1/messages/count_tokens", allowed(Host="evil.lan"), 421, "invalid_request_error"),
        ("POST", "/v1/messages/batches", allowed(), 404, "not_found_error"),
        ("GET", "/v1/messages", allowed(), 405, "invalid_request_error"),
        ("POST", "/v1/messages", allowed(), 500, "api_error"),
    ],
)
async def test_anthropics_clients_read_every_error_in_their_shape(
    guarded: Served,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    kind: str,
) -> None:
    def mistaken(self: object, client: str) -> None:
        raise KeyError

    monkeypatch.setattr(MessagesBody, "request", mistaken)
    response = await guarded.http.request(method, path, headers=headers, json={"messages": []})
    told = response.json()
    assert (response.status_code, told["type"], told["error"]["type"]) == (status, "error", kind)
    assert told["error"]["message"]
