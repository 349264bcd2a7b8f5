"""A workspace, a context and one way to call a tool."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsv4_tools.base import ToolContext, ToolError, ToolResult
from dsv4_tools.registry import default_tools
from dsv4_tools.sandbox.direct import Direct
from dsv4_tools.workspace import Workspace

Call = Callable[..., Awaitable[ToolResult]]
Git = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    return folder


@pytest.fixture
def context(root: Path, tmp_path: Path) -> ToolContext:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    return ToolContext(Workspace(root), tmp_path / "spill", Direct(), environment)


@pytest.fixture
def call(context: ToolContext) -> Call:
    """`await call("read", path="x")` gives the result; a ToolError becomes a result with its text."""
    tools = default_tools()

    async def run(name: str, /, *, path_env: str | None = None, **arguments: Any) -> ToolResult:
        used = context
        if path_env is not None:
            used = replace(context, environment={**context.environment, "PATH": path_env})
        tool = tools[name]
        try:
            return await tool.run(tool.Args(**arguments), used)
        except ToolError as error:
            return ToolResult(error.text)

    return run


@pytest.fixture
def git(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Plain git in the workspace, with no configuration but the repository's own."""
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")

    def run(*arguments: str) -> str:
        identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True
        )
        return done.stdout

    run("init", "-q", "-b", "main")
    return run
