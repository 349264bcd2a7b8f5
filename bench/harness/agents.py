"""How to start each agent against the scripted server: its command, its settings, the name of its shell tool.

Every agent gets a home of its own with nothing in it but these settings, and may run any command unasked.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.server import MODEL

PROMPT = "Run the commands that you think of, one after the other."
KEY = "a-key-that-opens-nothing"
_MOST_TURNS = "1000"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run happens: the scripted server, an empty home, a repository."""

    url: str
    home: Path
    workspace: Path


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line and what the environment has on top of home and PATH."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Agent:
    """One contestant.

    Attributes:
        program: what is looked for on PATH.
        tool: the tool that runs commands, as the model is told of it.
        arguments: its arguments for a command.
        tokens: the tokenizer of the ids that it wants back, for an agent that speaks tokens.
        version: the arguments that make it say its version.
    """

    name: str
    program: str
    tool: str
    prepare: Callable[[str, Place], Launch]
    arguments: Callable[[str], Mapping[str, object]] = lambda command: {"command": command}
    served_by: str = "harness"
    tokens: str | None = None
    version: tuple[str, ...] = ("--version",)

    @property
    def found(self) -> str | None:
        """The program's path, if it is there."""
        beside = Path(sys.executable).with_name(self.program)
        return str(beside) if beside.is_file() else shutil.which(self.program)

    def launch(self, place: Place) -> Launch:
        """Write its settings; how it is started."""
        assert self.found is not None
        return self.prepare(self.found, place)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _dsv4(protocol: str, tokenizer: str | None) -> Callable[[str, Place], Launch]:
    def prepare(program: str, place: Place) -> Launch:
        tokens = f'tokenizer = "{tokenizer}"\n' if tokenizer else ""
        table = f'base_url = "{place.url}/v1"\nprotocol = "{protocol}"\n{tokens}'
        _write(place.home / "config" / "config.toml", f"[models.scripted]\n{table}")
        options = ("--model", "scripted", "--permission-mode", "auto", "--max-turns", _MOST_TURNS)
        environment = {
            "DSV4_CONFIG_DIR": str(place.home / "config"),
            "DSV4_STATE_DIR": str(place.home / "state"),
        }
        return Launch((program, "run", *options, PROMPT), environment)

    return prepare


def _floor(program: str, place: Place) -> Launch:
    return Launch((program, "-S", str(Path(__file__).with_name("floor.py")), place.url, PROMPT))


def _codex(program: str, place: Place) -> Launch:
    provider = {
        "name": "scripted",
        "base_url": f"{place.url}/v1",
        "wire_api": "responses",
        "env_key": "SCRIPTED_KEY",
        "request_max_retries": 0,
        "stream_max_retries": 0,
    }
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in provider.items())
    settings = f'model = "{MODEL}"\nmodel_provider = "scripted"\n[model_providers.scripted]\n{lines}\n'
    _write(place.home / ".codex" / "config.toml", settings)
    options = ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
    return Launch((program, *options, PROMPT), {"SCRIPTED_KEY": KEY})


def _claude(program: str, place: Place) -> Launch:
    environment = {
        "ANTHROPIC_BASE_URL": place.url,
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "IS_SANDBOX": "1",
    }
    options = ("-p", "--allowedTools", "Bash", "--max-turns", _MOST_TURNS)
    return Launch((program, *options, "--", PROMPT), environment)


def _reasonix(program: str, place: Place) -> Launch:
    settings = f"""default_model = "scripted"

[[providers]]
name = "scripted"
kind = "openai"
base_url = "{place.url}/v1"
model = "{MODEL}"
api_key_env = "SCRIPTED_KEY"
context_window = 1000000

[telemetry]
enabled = false
"""
    _write(place.workspace / "reasonix.toml", settings)
    options = ("run", "--max-steps", _MOST_TURNS, "--permission-mode", "yolo")
    return Launch((program, *options, PROMPT), {"SCRIPTED_KEY": KEY})


def _vibe(program: str, place: Place) -> Launch:
    settings = f"""active_model = "scripted"
enable_telemetry = false
enable_update_checks = false
enable_auto_update = false

[[providers]]
name = "scripted"
api_base = "{place.url}/v1"
api_key_env_var = "SCRIPTED_KEY"
api_style = "openai"
backend = "generic"

[[models]]
name = "{MODEL}"
provider = "scripted"
alias = "scripted"
"""
    _write(place.home / ".vibe" / "config.toml", settings)
    options = ("--auto-approve", "--max-turns", _MOST_TURNS, "-p", PROMPT)
    environment = {"SCRIPTED_KEY": KEY, "VIBE_HOME": str(place.home / ".vibe")}
    return Launch((program, *options), environment)


def _kimi(program: str, place: Place) -> Launch:
    settings = f"""default_model = "scripted"

[providers.scripted]
type = "openai_legacy"
base_url = "{place.url}/v1"
api_key = "{KEY}"

[models.scripted]
provider = "scripted"
model = "{MODEL}"
max_context_size = 1000000

[loop_control]
max_steps_per_turn = {_MOST_TURNS}
"""
    _write(place.home / ".kimi" / "config.toml", settings)
    return Launch((program, "--print", "--yolo", "-p", PROMPT), {"KIMI_DISABLE_TELEMETRY": "1"})


def _mini(program: str, place: Place) -> Launch:
    options = (
        *("-y", "--exit-immediately", "-m", f"openai/{MODEL}", "-t", PROMPT),
        *("-l", "0", "-o", str(place.home / "trajectory.json")),
    )
    environment = {
        "OPENAI_API_BASE": f"{place.url}/v1",
        "OPENAI_BASE_URL": f"{place.url}/v1",
        "OPENAI_API_KEY": KEY,
        "MSWEA_CONFIGURED": "true",
        "MSWEA_SILENT_STARTUP": "1",
        "MSWEA_COST_TRACKING": "ignore_errors",
        "MSWEA_GLOBAL_CONFIG_DIR": str(place.home / "mini"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    return Launch((program, *options), environment)


def _opencode(program: str, place: Place) -> Launch:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "scripted",
        "options": {"baseURL": f"{place.url}/v1", "apiKey": KEY},
        "models": {MODEL: {"name": MODEL, "limit": {"context": 1_000_000, "output": 8192}}},
    }
    settings = {"provider": {"scripted": provider}, "share": "disabled", "autoupdate": False}
    _write(place.home / ".config" / "opencode" / "opencode.json", json.dumps(settings))
    options = ("run", "--auto", "--title", "t", "-m", f"scripted/{MODEL}", PROMPT)
    return Launch((program, *options), {"OPENCODE_DISABLE_MODELS_FETCH": "1"})


def _qwen(program: str, place: Place) -> Launch:
    settings = {"telemetry": {"enabled": False}, "privacy": {"usageStatisticsEnabled": False}}
    _write(place.home / ".qwen" / "settings.json", json.dumps(settings))
    options = ("--yolo", "--auth-type", "openai", "--openai-api-key", KEY, "-m", MODEL)
    where = ("--openai-base-url", f"{place.url}/v1")
    return Launch((program, *options, *where, "-p", PROMPT))


AGENTS = (
    Agent("dsv4 (chat)", "dsv4", "shell", _dsv4("chat", None)),
    Agent(
        "dsv4 (tokens)",
        "dsv4",
        "shell",
        _dsv4("tokens", "deepseek-v4"),
        served_by="vllm",
        tokens="deepseek-v4",
    ),
    Agent("loop of 60 lines", Path(sys.executable).name, "shell", _floor),
    Agent("codex", "codex", "exec_command", _codex, lambda command: {"cmd": command}),
    Agent(
        "claude", "claude", "Bash", _claude, lambda command: {"command": command, "description": "Do nothing"}
    ),
    Agent("reasonix", "reasonix", "bash", _reasonix),
    Agent("vibe", "vibe", "bash", _vibe),
    Agent("kimi", "kimi", "Shell", _kimi),
    Agent("mini-swe-agent", "mini", "bash", _mini, version=("--help",)),
    Agent(
        "opencode", "opencode", "bash", _opencode, lambda command: {"command": command, "description": "x"}
    ),
    Agent(
        "qwen",
        "qwen",
        "run_shell_command",
        _qwen,
        lambda command: {"command": command, "is_background": False},
    ),
)
