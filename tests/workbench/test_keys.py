"""Keys: where they are looked for, which are refused, and that they don't show."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dsv4_agent.backends.profile import Secret
from dsv4_agent.workbench import keys
from dsv4_agent.workbench.keys import KeyRefused, find_key, forget_key, keep_key, key_file


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr(keys, "_plausible", lambda: False)
    return tmp_path


class Keyring(ModuleType):
    """A keyring in memory."""

    def __init__(self) -> None:
        super().__init__("keyring")
        self.held: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, name: str) -> str | None:
        return self.held.get((service, name))

    def set_password(self, service: str, name: str, text: str) -> None:
        self.held[service, name] = text

    def delete_password(self, service: str, name: str) -> None:
        del self.held[service, name]


def place_of(name: str = "a", env: str | None = None, **environment: str) -> str | None:
    found = find_key(name, env, environment)
    return None if found is None else f"{found.secret.reveal()} in {found.place}"


def test_a_file_is_private_and_found_again(folder: Path) -> None:
    assert place_of() is None
    where = keep_key("a", Secret(" sk-1\n"))
    assert Path(where) == key_file("a") == folder / "keys" / "a"
    assert key_file("a").stat().st_mode & 0o777 == 0o600
    assert key_file("a").parent.stat().st_mode & 0o777 == 0o700
    assert place_of() == f"sk-1 in {where}"
    forget_key("a")
    forget_key("a")
    assert place_of() is None


def test_the_variable_goes_first() -> None:
    keep_key("a", Secret("sk-file"))
    assert place_of(env="MINE", MINE=" sk-env ") == "sk-env in the variable MINE"
    assert (place_of(env="MINE", MINE="") or "").startswith("sk-file")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_open_is_refused(mode: int) -> None:
    keep_key("a", Secret("sk-1"))
    key_file("a").chmod(mode)
    with pytest.raises(KeyRefused, match="chmod 600") as caught:
        find_key("a", None, {})
    assert "sk-1" not in str(caught.value)


def test_links_folders_and_pipes_are_refused(folder: Path) -> None:
    key_file("a").parent.mkdir()
    (folder / "elsewhere").write_text("sk-1")
    key_file("a").symlink_to(folder / "elsewhere")
    key_file("b").mkdir()
    os.mkfifo(key_file("c"), 0o600)
    for name in "abc":
        with pytest.raises(KeyRefused):
            find_key(name, None, {})


def test_the_file_of_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_key("a", Secret("sk-1"))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(KeyRefused, match="not a file of yours"):
        find_key("a", None, {})


@pytest.mark.parametrize("text", ["two words", "line\r\nX-Evil: 1", "schlüssel", "x" * 9_000])
def test_what_can_t_be_a_key_is_refused_unrepeated(text: str) -> None:
    with pytest.raises(KeyRefused) as caught:
        find_key("a", "MINE", {"MINE": text})
    assert text not in str(caught.value)
    with pytest.raises(KeyRefused):
        keep_key("a", Secret(text))


def test_the_keyring_comes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_key("a", Secret("sk-file"))
    keyring = Keyring()
    monkeypatch.setattr(keys, "_keyring", lambda: keyring)
    assert (place_of() or "").startswith("sk-file")
    assert keep_key("a", Secret("sk-ring")) == "the keyring"
    assert keyring.held == {("dsv4", "a"): "sk-ring"} and not key_file("a").exists()
    assert place_of() == "sk-ring in the keyring"
    forget_key("a")
    assert place_of() is None


def test_a_keyring_that_hangs_or_fails_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    never = threading.Event()

    class Broken(Keyring):
        def get_password(self, service: str, name: str) -> Any:
            never.wait()

        def set_password(self, service: str, name: str, text: str) -> None:
            raise RuntimeError("locked")

    monkeypatch.setattr(keys, "_PATIENCE", 0.05)
    monkeypatch.setattr(keys, "_keyring", lambda: Broken())
    assert keep_key("a", Secret("sk-file")) == str(key_file("a"))
    assert (place_of() or "").startswith("sk-file")
    never.set()


def test_the_real_package_without_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("keyring", reason="an optional package")
    monkeypatch.setattr(keys, "_plausible", lambda: True)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    import keyring.core

    monkeypatch.setattr(keyring.core, "_keyring_backend", None)
    assert keep_key("a", Secret("sk-1")) == str(key_file("a"))


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret("sk-1")
    assert all("sk-1" not in text for text in (repr(secret), str(secret), f"{secret}", repr([secret])))
