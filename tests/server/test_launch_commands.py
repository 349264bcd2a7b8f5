"""Launch commands: option for option what the recipes say, and refusals with their sums."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dsv4_agent.cli.launch_options import Engine, Sharing
from dsv4_agent.server.launch_commands import (
    LaunchEngine,
    LaunchError,
    LaunchPlan,
    LaunchRequest,
    Parallel,
    as_shell,
    launch_command,
)
from dsv4_agent.server.launch_commands.checkpoint import Drafts, Family, Generation, identify
from dsv4_agent.server.launch_commands.hardware import Architecture, alike, parse_gpus
from dsv4_model.machine import Gpu
from tests.model.released import FLASH, FLASH_0731, PRO

FLASH_NAME = "deepseek-ai/DeepSeek-V4-Flash"
PRO_NAME = "deepseek-ai/DeepSeek-V4-Pro"


def plan(model: str = FLASH_NAME, gpus: str = "4xH200", engine: str = "vllm", **given: object) -> LaunchPlan:
    return launch_command(LaunchRequest(engine=LaunchEngine(engine), model=model, gpus=gpus, **given))  # type: ignore[arg-type]


def options(plan: LaunchPlan) -> dict[str, str | None]:
    """The serving command's options with their values."""
    words = list(plan.commands[-1])
    found: dict[str, str | None] = {}
    for word, following in zip(words, [*words[1:], "--end"], strict=True):
        if word.startswith("--"):
            found[word] = None if following.startswith("--") else following
    return found


def test_vllm_flash_0731_as_in_the_recipe() -> None:
    made = plan(f"{FLASH_NAME}-0731")
    assert made.commands == (
        (
            *("vllm", "serve", f"{FLASH_NAME}-0731", "--trust-remote-code"),
            *("--host", "127.0.0.1", "--port", "8000"),
            *("--kv-cache-dtype", "fp8", "--block-size", "256", "--enable-expert-parallel"),
            *("--data-parallel-size", "4", "--tokenizer-mode", "deepseek_v4"),
            *("--tool-call-parser", "deepseek_v4", "--enable-auto-tool-choice"),
            *("--reasoning-parser", "deepseek_v4", "--reasoning-config"),
            '{"reasoning_parser":"deepseek_v4","reasoning_start_str":"","reasoning_end_str":""}',
            "--speculative-config",
            '{"method":"dspark","num_speculative_tokens":7,"draft_sample_method":"probabilistic"}',
            "--enable-prompt-tokens-details",
        ),
    )
    assert any("0.25" in note for note in made.notes) and "untested" in made.notes[-1]


@pytest.mark.parametrize(("gpus", "drafted"), [("4xH200", 1), ("4xB200", 2)])
def test_previews_draft_by_mtp(gpus: str, drafted: int) -> None:
    found = options(plan(gpus=gpus))
    assert json.loads(found["--speculative-config"] or "") == {
        "method": "mtp",
        "num_speculative_tokens": drafted,
    }


def test_blackwell_has_its_kernels() -> None:
    found = options(plan(gpus="4xB200"))
    assert found["--attention_config.indexer_kv_dtype"] == "mxfp4"
    assert found["--moe-backend"] == "deep_gemm_mega_moe"
    assert "--moe-backend" not in options(plan())


def test_pro_on_eight_h200_has_the_recipe_s_window() -> None:
    found = options(plan(PRO_NAME, "8xH200"))
    assert (found["--data-parallel-size"], found["--max-model-len"]) == ("8", "800000")
    assert "--max-model-len" not in options(plan(PRO_NAME, "8xB200"))
    assert options(plan(context=65_536))["--max-model-len"] == "65536"


def test_tensor_parallel_for_latency() -> None:
    found = options(plan(gpus="8xH200", parallel=Parallel.TENSOR))
    assert found["--tensor-parallel-size"] == "8" and "--data-parallel-size" not in found


def test_vllm_over_two_nodes() -> None:
    found = options(plan(PRO_NAME, "4xGB200", nodes=2, node_rank=1, head="10.0.0.1"))
    assert found["--data-parallel-size"] == "8" and found["--data-parallel-size-local"] == "4"
    assert found["--data-parallel-start-rank"] == "4" and found["--data-parallel-address"] == "10.0.0.1"
    assert found["--data-parallel-rpc-port"] == "13345"
    assert "--data-parallel-hybrid-lb" in found and "--headless" not in found


def test_tensor_parallel_over_nodes_goes_through_ray() -> None:
    head = plan(PRO_NAME, "8xH200", nodes=2, head="10.0.0.1", parallel=Parallel.TENSOR)
    assert head.commands[0] == ("ray", "start", "--head", "--port", "6379")
    found = options(head)
    assert found["--tensor-parallel-size"] == "8" and found["--pipeline-parallel-size"] == "2"
    assert found["--distributed-executor-backend"] == "ray"
    other = plan(PRO_NAME, "8xH200", nodes=2, node_rank=1, head="10.0.0.1", parallel=Parallel.TENSOR)
    assert other.commands == (("ray", "start", "--address", "10.0.0.1:6379", "--block"),)


def test_a_pair_of_small_machines_splits_the_tensors() -> None:
    found = options(plan(gpus="1xGB10", nodes=2, head="spark-1"))
    assert found["--tensor-parallel-size"] == "2" and "--pipeline-parallel-size" not in found


def test_sglang() -> None:
    found = options(plan(engine="sglang"))
    assert (found["--tp"], found["--reasoning-parser"]) == ("4", "deepseek-v4")
    assert found["--tool-call-parser"] == "deepseekv4" and "--enable-cache-report" in found
    assert found["--speculative-algorithm"] == "EAGLE" and found["--speculative-num-draft-tokens"] == "4"
    two = options(plan(PRO_NAME, "8xH200", "sglang", nodes=2, node_rank=1, head="10.0.0.1"))
    assert (two["--nnodes"], two["--node-rank"], two["--tp"]) == ("2", "1", "16")
    assert two["--dist-init-addr"] == "10.0.0.1:20000"
    dspark = plan(f"{FLASH_NAME}-0731", engine="sglang")
    assert "--speculative-algorithm" not in options(dspark)
    assert any("DSpark" in note for note in dspark.notes)


@pytest.mark.parametrize(
    ("model", "gpus", "enough"),
    [(PRO_NAME, "8xH100", "32"), (FLASH_NAME, "1xH200", "2"), (PRO_NAME, "4xB200", "8")],
)
def test_what_doesn_t_fit_is_refused_with_the_sum(model: str, gpus: str, enough: str) -> None:
    with pytest.raises(LaunchError) as caught:
        plan(model, gpus, parallel=Parallel.DATA)
    said = str(caught.value)
    assert re.search(r"[\d.]+ GB of weights on each GPU", said) and f"at least {enough} of them" in said
    count, _, name = gpus.partition("x")
    plan(model, f"{max(int(count), int(enough))}x{name}", parallel=Parallel.DATA)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gpus": "many"}, "8xH200"),
        ({"gpus": "4xRIVA"}, "4xRIVA:96GB"),
        ({"gpus": "3xH200"}, "evenly"),
        ({"context": 2_000_000}, "at most 1,048,576"),
        ({"nodes": 2}, "--head-address"),
        ({"nodes": 2, "node_rank": 2, "head": "a"}, "--node-rank"),
        ({"model": "nowhere"}, "no folder"),
        ({"model": "deepseek-ai/DeepSeek-V4.1-Flash"}, "another architecture"),
        ({"model": "deepseek-ai/DeepSeek-V4-Flash-Base"}, "base model"),
        ({"model": "meta/Llama-4"}, "not a released V4"),
        ({"engine": "sglang", "parallel": Parallel.DATA}, "data parallelism with SGLang"),
    ],
)
def test_refusals(given: dict[str, object], said: str) -> None:
    with pytest.raises(LaunchError, match=re.escape(said)) as caught:
        plan(**given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def folder(at: Path, config: dict[str, object], encoder: str | None = None) -> str:
    at.mkdir()
    (at / "config.json").write_text(json.dumps(config))
    if encoder is not None:
        (at / "encoding").mkdir()
        (at / "encoding" / "encoding_dsv4.py").write_text(encoder)
    return str(at)


def test_a_folder_tells_what_it_holds(tmp_path: Path) -> None:
    july = identify(folder(tmp_path / "a", FLASH_0731, "REASONING_EFFORT_PROMPTS = {}"))
    assert (july.family, july.generation, july.drafts) == (Family.FLASH, Generation.JULY, Drafts.DSPARK)
    early = identify(folder(tmp_path / "b", FLASH_0731, "REASONING_EFFORT_MAX = ''"))
    assert (early.generation, early.drafts) == (Generation.PREVIEW, Drafts.DSPARK)
    pro = identify(folder(tmp_path / "c", PRO))
    assert (pro.family, pro.generation, pro.drafts) == (Family.PRO, Generation.UNKNOWN, Drafts.MTP)
    assert any("set dialect yourself" in note for note in plan(pro.name, "8xB200").notes)


def test_a_small_model_is_for_dsv4_itself(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="dsv4 serve --model"):
        identify(folder(tmp_path / "a", {**FLASH, "hidden_size": 2048}))


def test_names() -> None:
    dspark = identify("deepseek-ai/DeepSeek-V4-Flash-DSpark")
    assert (dspark.generation, dspark.drafts) == (Generation.PREVIEW, Drafts.DSPARK)
    later = identify("deepseek-ai/DeepSeek-V4-Pro-0813")
    assert (later.generation, later.drafts) == (Generation.JULY, Drafts.UNKNOWN)
    assert "--speculative-config" not in options(plan(later.name, "8xB200"))


def test_gpus_of_a_driver() -> None:
    found = alike((Gpu("NVIDIA H200", 150 << 30, 149 << 30),) * 8)
    assert (found.count, found.memory, found.architecture) == (8, 150 << 30, Architecture.HOPPER)
    with pytest.raises(LaunchError, match="--gpus"):
        alike(())
    with pytest.raises(LaunchError, match="differ"):
        alike((Gpu("NVIDIA H200", 1, 1), Gpu("NVIDIA B200", 1, 1)))
    assert parse_gpus("4xRIVA 2:96GB").memory == 96 * 10**9


def words(text: str) -> list[str]:
    """A shell's words of a script of one command."""
    return shlex.split(text.replace("\\\n", " "), comments=True)


def test_the_text_is_a_script_that_says_the_same() -> None:
    made = plan(f"{FLASH_NAME}-0731")
    text = as_shell(made)
    assert tuple(words(text)) == made.commands[-1]
    assert text.startswith("# Flash (0731) on 4x H200: a window of 1,048,576 tokens\n")


def test_the_command_line_names_the_same_things() -> None:
    assert [*Engine] == [*LaunchEngine] and [*Sharing] == [*Parallel]


def serve(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    program = "import sys; from dsv4_agent.cli.main import main; sys.exit(main())"
    environment = {**os.environ, **({} if path is None else {"PATH": path})}
    return subprocess.run(
        [sys.executable, "-c", program, "serve", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )


def test_it_is_printed_or_run(tmp_path: Path) -> None:
    given = ("--engine", "sglang", "--model", FLASH_NAME, "--gpus", "4xH200", "--port", "8123")
    printed = serve(*given)
    assert printed.returncode == 0 and "--port 8123" in printed.stdout
    missing = serve(*given, "--run", path=str(tmp_path))
    assert missing.returncode == 52 and "sglang is not installed here" in missing.stderr
    engine = tmp_path / "sglang"
    engine.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    engine.chmod(0o755)
    ran = serve(*given, "--run", path=str(tmp_path))
    assert ran.returncode == 0 and "untested" in ran.stderr
    assert ran.stdout.split() == words(printed.stdout)[1:]
    refused = serve("--engine", "vllm", "--model", PRO_NAME, "--gpus", "8xH100")
    assert refused.returncode == 52 and refused.stderr.startswith("dsv4: error: Pro doesn't fit 8x H100")
