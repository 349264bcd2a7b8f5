"""`dsv4 model info` as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsv4_model.nano import WEIGHTS
from tests.fixtures_path import SHARED
from tests.model.released import FLASH, FLASH_INFERENCE, PRO

RUN = "import sys; from dsv4_agent.cli.main import main; sys.exit(main())"
HEAVY = ("torch", "transformers", "textual", "numpy", "tokenizers", "safetensors", "httpx", "git")
PROBE = f"""
import sys
from dsv4_agent.cli.main import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def info(*arguments: object, program: str = RUN, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-c", program, "model", "info", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=120,
        env={**kept, **environment},
    )


def as_json(*arguments: object) -> dict[str, Any]:
    result = info(*arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def config_file(folder: Path, values: dict[str, Any]) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(values))
    return file


def test_flash_in_json(tmp_path: Path) -> None:
    values = as_json(config_file(tmp_path, FLASH), "--context", 1_000_000)
    assert values["context"] == 1_000_000 and values["cache_format"] == "fp8+fp4"
    assert values["parameters"] == 284_332_240_471
    assert values["active_parameters"] == 13_270_101_591
    assert values["weight_bytes"] == 159_609_485_896
    assert values["weight_bytes"] == sum(values["weight_bytes_by_component"].values())
    assert values["kv_bytes"] == 3_517_458_496 == sum(values["kv_bytes_by_kind"].values())
    assert values["bytes_per_token"] == 3514.25
    assert values["flops_per_token"] == sum(values["flops_per_token_by_part"].values())
    assert round(values["flops_of_v32_fp8_equivalent"], 3) == 0.1
    assert values["layers"] == {"window": 2, "csa": 21, "hca": 20}
    assert [row["context"] for row in values["comparison"]] == [131_072, 262_144, 1_000_000, 1_048_576]
    assert values["stored_bytes"] is None
    assert values["fit"]["verdict"] in ("fits", "fits_with_expert_offload", "too_large")
    assert values["fit"]["reasons"]


def test_pro_in_another_cache_format(tmp_path: Path) -> None:
    values = as_json(config_file(tmp_path, PRO), "--cache-format", "fp8")
    assert (values["context"], values["bytes_per_token"]) == (131_072, 5511.4375)


def test_either_key_style(tmp_path: Path) -> None:
    folder = tmp_path / "inference"
    folder.mkdir()
    file = config_file(folder, FLASH_INFERENCE)
    by_file, by_folder = as_json(file), as_json(tmp_path)
    for values in (by_file, by_folder):
        assert values["weight_bytes"] == 159_609_485_896


def test_nano_is_as_large_as_its_file() -> None:
    values = as_json("nano")
    assert values["stored_bytes"] == values["weight_bytes"]
    assert values["missing_files"] == []
    assert values["context"] == values["max_context"] == 65_536
    assert values["fit"]["verdict"] == "fits"
    assert values["comparison"][0]["context"] == 65_536
    assert as_json(WEIGHTS)["stored_bytes"] == values["stored_bytes"]


def test_a_folder_whose_weights_are_not_all_there(tmp_path: Path) -> None:
    config_file(tmp_path, FLASH)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1", "b": "2"}}')
    header = b'{"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}'
    (tmp_path / "1").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    values = as_json(tmp_path)
    assert values["stored_bytes"] == 8 and values["missing_files"] == ["2"]
    assert values["weight_bytes"] == 159_609_485_896
    assert "1 of 2 files are absent or cut off" in info(tmp_path).stdout


def test_the_page_for_people(tmp_path: Path) -> None:
    result = info(config_file(tmp_path, FLASH))
    assert (result.returncode, result.stderr) == (0, "")
    page = " ".join(result.stdout.split())
    for text in (
        "284.33 B parameters, 13.27 B active",
        "43 layers (2 window, 21 csa, 20 hca)",
        "One more token: 3,514.25 bytes. A restart point: 3.64 MB.",
        "131,072 464 MB 6.30 GB 32.7 GB 7.36% 1.42%",
        "1,048,576 3.69 GB 50.4 GB 262 GB 7.32% 1.41%",
        "1,000,000 26.5 G 22.6 G 86.0 G 135.2 G 12.2% 10.0%",
        "routed experts 147 GB 3.45 GB",
        "On this machine: it ",
    ):
        assert text in page
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    assert not any(line.endswith(" ") for line in lines)


def test_a_toy_is_not_compared() -> None:
    page = info("nano").stdout
    assert "V3.2" not in page and "10.50 M parameters" in page


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"NO_COLOR": "1"}])
def test_plain_text_where_no_terminal_reads(environment: dict[str, str]) -> None:
    assert "\x1b" not in info("nano", **environment).stdout


def test_a_stdout_that_knows_ascii_only(tmp_path: Path) -> None:
    folder = tmp_path / "größe"
    folder.mkdir()
    result = info(config_file(folder, FLASH), PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert result.stdout.isascii() and "----" in result.stdout


@pytest.mark.parametrize(
    ("environment", "styled"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_styles_on_a_terminal(environment: dict[str, str], styled: bool) -> None:
    ours, theirs = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-c", RUN, "model", "info", "nano"]
    with subprocess.Popen(command, stdout=theirs, env={**kept, **environment}) as process:
        os.close(theirs)
        data = b""
        try:
            while part := os.read(ours, 65536):
                data += part
        except OSError:  # Linux says so when the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 0 and b"10.50 M parameters" in data
    assert (b"\x1b[" in data) is styled


@pytest.mark.parametrize("arguments", [("nano",), ("nano", "--json")])
def test_nothing_heavy_is_imported(arguments: tuple[str, ...]) -> None:
    assert info(*arguments, program=PROBE).stdout.splitlines()[-1] == "[]"


def failure(*arguments: object) -> str:
    result = info(*arguments)
    assert result.returncode == 42
    assert result.stdout == ""
    assert result.stderr.startswith("dsv4: error: ") and result.stderr.count("\n") == 1
    assert re.fullmatch(r"[\x20-\x7e]*\n", result.stderr)
    return result.stderr


def test_a_context_beyond_the_model(tmp_path: Path) -> None:
    message = failure(config_file(tmp_path, FLASH), "--context", 1_048_577)
    assert "max_position_embeddings is 1048576" in message
    assert info("nano", "--context", 65_536).returncode == 0
    assert "65536" in failure("nano", "--context", 65_537, "--json")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "not JSON"),
        ("\udcff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "vocab_size"),
        (json.dumps({**FLASH, "model_type": "llama"}), "llama"),
        (json.dumps({**FLASH, "model_type": "deepseek_v41"}), "V4.1"),
        (json.dumps({**FLASH, "hidden_size": "\x1b[2J\nbig"}), "hidden_size"),
        (json.dumps({**FLASH, "hidden_size": 10**400}), "000...: must be a positive integer"),
        (json.dumps({**FLASH, "compress_ratios": [4]}), "compress_ratios"),
        (json.dumps({**FLASH, "dspark_block_size": 5, "dspark_target_layer_ids": 7}), "impossible values"),
    ],
)
def test_bad_configurations(tmp_path: Path, content: str, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert text in failure(file)
    assert text in failure(tmp_path, "--json")


def test_bad_paths(tmp_path: Path) -> None:
    assert "there is no" in failure(tmp_path / "absent")
    assert "there is no" in failure(b"\xff\x1b[2J".decode("utf-8", "surrogateescape"))
    assert "has no config.json" in failure(tmp_path)
    assert "is not a config.json" in failure("/dev/null")
    large = tmp_path / "model.safetensors"
    with large.open("wb") as stream:
        stream.truncate(10**12)  # sparse; reading it would take minutes
    assert "is not a config.json" in failure(large)
    config_file(tmp_path, FLASH)
    large.write_bytes(b"\x02" + bytes(7) + b"[]")
    assert "model.safetensors" in failure(tmp_path)


@pytest.mark.parametrize("arguments", [("--context", "0"), ("--context", "many"), ("--cache-format", "fp7")])
def test_a_wrong_command_line(arguments: tuple[str, str]) -> None:
    assert info("nano", *arguments).returncode == 2


def test_the_released_files() -> None:
    if SHARED is None:
        pytest.skip("the shared fixtures are not on this machine")
    values = as_json(SHARED / "configs" / "DeepSeek-V4-Pro.config.json", "--context", 1_048_576)
    assert values["kv_bytes"] == 5_280_404_480
    assert "V4.1" in failure(SHARED / "configs" / "DeepSeek-V4.1-Flash.text_config.secondhand.json")
