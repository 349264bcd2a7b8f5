"""What this machine has and lacks: the surroundings of dsv4, its own folders, the models it is to use.

Nothing is changed, loaded, built or sampled; servers are asked what they are.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dsv4_agent.session.session import state_directory
from dsv4_agent.version import __version__
from dsv4_agent.workbench.findings import Finding, Grade
from dsv4_agent.workbench.model_options import NANO, is_folder
from dsv4_agent.workbench.settings import FILE, Settings, SettingsError, config_directory, load_settings
from dsv4_agent.workbench.sizes import size
from dsv4_tools.environment import scrubbed
from dsv4_tools.sandbox.base import SandboxUnavailable

_OLDEST: Final = (3, 11)
_LOCAL: Final = ("torch", "safetensors", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Examined:
    """One subject and what was found about it; the title is `machine`, or a model's name."""

    title: str
    findings: tuple[Finding, ...]


def examine(environment: Mapping[str, str], only: str | None = None) -> list[Examined]:
    """The machine and every server's model; with `only`, the machine and that model. Blocks."""
    from dsv4_agent.workbench.doctor_models import examine_models

    machine = Examined("machine", (*surroundings(environment), *own_folders(), *_defaults(environment)))
    return [machine, *asyncio.run(examine_models(_settings(), environment, only))]


def surroundings(environment: Mapping[str, str]) -> list[Finding]:
    """Python, programs, the engine's packages, memory, the terminal."""
    return [
        _python(),
        Finding("system", Grade.OK, platform.platform()),
        _program("git", Grade.PROBLEM, "chat, run and batch can't work without it", "Install git"),
        _sandbox(environment),
        _program("rg", Grade.OK, "searches use the built-in one, which is slower", "", name="ripgrep"),
        _engine(),
        _resources(),
        _terminal(environment),
    ]


def own_folders() -> list[Finding]:
    """Settings, keys and sessions, and who may read them."""
    config, state = config_directory(), state_directory()
    found = [_folder("settings", config, str(config / FILE))]
    if (config / "keys").is_dir():
        found.append(_folder("keys", config / "keys", str(config / "keys"), private=True))
    found.append(_folder("sessions", state / "sessions", str(state / "sessions"), private=True))
    try:
        load_settings()
    except SettingsError as error:
        found.append(Finding("settings", Grade.PROBLEM, str(error)))
    return found


def _settings() -> Settings:
    try:
        return load_settings()
    except SettingsError:
        return Settings()  # what is wrong with them is a finding of its own


def _defaults(environment: Mapping[str, str]) -> list[Finding]:
    from dsv4_agent.workbench.model_catalogue import is_known

    name = environment.get("DSV4_MODEL") or _settings().model or NANO
    try:
        known = is_known(name, environment)
    except SettingsError as error:
        return [Finding("default model", Grade.PROBLEM, str(error))]
    if not known:
        remedy = "See dsv4 model list, and choose with dsv4 model use NAME"
        return [Finding("default model", Grade.PROBLEM, f"{name}, which isn't there", remedy)]
    if (name == NANO or is_folder(name)) and (missing := _missing(_LOCAL)):
        remedy = "Run: pip install 'dsv4-agent[local]', or dsv4 model add NAME URL for a server"
        return [Finding("default model", Grade.PROBLEM, f"{name}, which needs {missing}", remedy)]
    return [Finding("default model", Grade.OK, name)]


def _python() -> Finding:
    text = f"dsv4 {__version__} on Python {platform.python_version()}"
    if sys.version_info[:2] < _OLDEST:
        return Finding("version", Grade.PROBLEM, text, "Install Python 3.11 or newer")
    return Finding("version", Grade.OK, text)


def _program(program: str, grade: Grade, without: str, remedy: str, *, name: str = "") -> Finding:
    found = shutil.which(program)
    if found is not None:
        return Finding(name or program, Grade.OK, found)
    return Finding(name or program, grade, f"not installed: {without}", remedy)


def _sandbox(environment: Mapping[str, str]) -> Finding:
    from dsv4_tools.sandbox.bubblewrap import probe

    try:
        return Finding("sandbox", Grade.OK, probe(scrubbed(environment), Path.cwd().resolve()))
    except SandboxUnavailable as error:
        cause = error.cause.rstrip(".")
        return Finding("sandbox", Grade.NOTE, f"{cause}; commands run without one", error.remedy.rstrip("."))


def _engine() -> Finding:
    from dsv4_model.cache_folder import cache_folder
    from dsv4_model.kernels.build import find_compiler, library_name
    from dsv4_model.kernels.library import packaged_library

    if missing := _missing(_LOCAL):
        text = f"models in this process need {missing}; servers don't"
        return Finding("engine", Grade.NOTE, text, "Run: pip install 'dsv4-agent[local]' to run models here")
    if packaged_library().is_file() or (cache_folder("native") / library_name()).is_file():
        return Finding("engine", Grade.OK, "native, compiled")
    if (compiler := find_compiler()) is not None:
        return Finding("engine", Grade.OK, f"native, compiled by {compiler} when it is first used")
    return Finding(
        "engine", Grade.NOTE, "PyTorch, which is slower: there is no compiler", "Install g++ or clang"
    )


def _resources() -> Finding:
    from dsv4_model.kernels.library import physical_cores
    from dsv4_model.machine import read_machine

    machine = read_machine(config_directory().parent)
    memory = "unknown memory" if machine.available is None else f"{size(machine.available)} of memory free"
    gpus = "".join(f", {gpu.name} with {size(gpu.free)} free" for gpu in machine.gpus)
    return Finding("resources", Grade.OK, f"{physical_cores()} cores, {memory}{gpus}")


def _terminal(environment: Mapping[str, str]) -> Finding:
    encoding = sys.getfilesystemencoding()
    kind = environment.get("TERM", "") or "none"
    text = f"{kind} {environment.get('COLORTERM', '')}".strip() + f", {encoding}"
    if encoding.lower().replace("-", "") != "utf8":
        return Finding("terminal", Grade.NOTE, text, "Set LANG to a UTF-8 locale, e.g. C.UTF-8")
    return Finding("terminal", Grade.OK, text)


def _folder(name: str, folder: Path, shown: str, *, private: bool = False) -> Finding:
    """A folder of ours: writable for us, for nobody else; where others may not even look, not that."""
    try:
        state = folder.stat()
    except FileNotFoundError:
        return Finding(name, Grade.OK, f"{shown}, made when it is needed")
    except OSError as error:
        return Finding(name, Grade.PROBLEM, f"{shown}: {error.strerror}", f"Check the rights of {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(name, Grade.PROBLEM, f"{shown} can't be written", f"Run: chmod u+rwx {folder}")
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Finding(name, Grade.PROBLEM, f"{shown} can be changed by others", f"Run: chmod go-w {folder}")
    if private and state.st_mode & 0o077:
        return Finding(name, Grade.NOTE, f"{shown} can be read by others", f"Run: chmod 700 {folder}")
    return Finding(name, Grade.OK, shown)


def _missing(packages: tuple[str, ...]) -> str:
    return ", ".join(package for package in packages if importlib.util.find_spec(package) is None)
