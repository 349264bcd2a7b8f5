from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dsv4_agent.chat.drafts import Draft, DraftStore


def test_a_draft_comes_back_for_its_own_workspace_only(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    draft = Draft("see [paste #1: 9 lines]", {"[paste #1: 9 lines]": "x\n" * 9}, True)
    DraftStore(here, folder=tmp_path / "d").save(draft)
    assert DraftStore(here, folder=tmp_path / "d").load() == draft
    assert DraftStore(there, folder=tmp_path / "d").load() is None


def test_the_same_folder_by_another_name_is_the_same_workspace(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    DraftStore(tmp_path / "real", folder=tmp_path / "d").save(Draft("hello"))
    assert DraftStore(tmp_path / "link", folder=tmp_path / "d").load() == Draft("hello")


def test_it_is_private_and_in_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    DraftStore(tmp_path).save(Draft("secret"))
    (file,) = (tmp_path / "state" / "drafts").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_clearing_and_saving_nothing_remove_it(tmp_path: Path) -> None:
    store = DraftStore(tmp_path, folder=tmp_path / "d")
    store.save(Draft("x"))
    store.clear()
    assert store.load() is None and not list((tmp_path / "d").iterdir())
    store.save(Draft("x"))
    store.save(Draft("  \n"))
    assert store.load() is None
    store.clear()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"text": 1}', b"\xff", b"[" * 100_000])
def test_a_broken_file_is_no_draft(tmp_path: Path, data: bytes) -> None:
    store = DraftStore(tmp_path, folder=tmp_path / "d")
    store.save(Draft("x"))
    (file,) = (tmp_path / "d").iterdir()
    file.write_bytes(data)
    assert store.load() is None


def test_an_unusable_folder_warns_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    store = DraftStore(tmp_path, folder=tmp_path / "d")
    store.save(Draft("x\ud800"))
    assert store.warning is not None
    assert store.load() is None
    store.clear()
