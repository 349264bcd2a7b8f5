"""Verdicts over made-up machines, and reading a machine from made-up /proc and /sys."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4_model import machine as machines
from dsv4_model.accounting import CacheFormat, Component, kv_bytes, weight_bytes
from dsv4_model.config import ModelConfig
from dsv4_model.fit import RUNTIME_BYTES, Fit, Place, Verdict, gigabytes, judge, longest_context
from dsv4_model.machine import Gpu, Machine, read_machine
from dsv4_model.nano import WEIGHTS
from tests.model.released import flash, pro

GB = 10**9
COARSE = CacheFormat.FP8_FP4
NANO = ModelConfig.from_file(WEIGHTS)


def fit(
    config: ModelConfig,
    available: int | None,
    *,
    context: int = 131_072,
    cache: CacheFormat = COARSE,
    total: int | None = None,
    disk: int | None = 2000 * GB,
    gpus: tuple[Gpu, ...] = (),
    on_disk: bool = True,
) -> Fit:
    machine = Machine(available, total, disk, gpus)
    return judge(config, machine, context=context, cache=cache, on_disk=on_disk)


def test_nano_fits_a_small_machine() -> None:
    verdict = fit(NANO, GB, context=65_536)
    assert verdict.verdict is Verdict.FITS and verdict.place is Place.RAM
    assert verdict.longest_context == NANO.max_position_embeddings
    assert verdict.advice == ()


def test_everything_is_counted() -> None:
    sizes = weight_bytes(flash)
    weights = sum(sizes.values()) - sizes[Component.MTP]
    needed = weights + kv_bytes(flash, 131_072, COARSE).held + RUNTIME_BYTES
    assert fit(flash, needed).verdict is Verdict.FITS
    assert fit(flash, needed).needed == needed
    assert fit(flash, needed).longest_context == 131_072 + 3  # the next entry comes with the fourth token
    assert fit(flash, needed - 1).verdict is Verdict.FITS_WITH_EXPERT_OFFLOAD


def test_experts_stay_on_disk() -> None:
    verdict = fit(flash, 24 * GB)
    assert verdict.verdict is Verdict.FITS_WITH_EXPERT_OFFLOAD and verdict.place is Place.RAM
    assert verdict.expert_budget is not None and 14 * GB < verdict.expert_budget < 15 * GB
    experts = weight_bytes(flash)[Component.ROUTED_EXPERTS]
    assert verdict.needed - experts + verdict.expert_budget == 24 * GB
    assert any("a memory budget of 14." in line for line in verdict.advice)
    assert any("10% of the experts" in line and "3.45 GB" in line for line in verdict.reasons)
    assert fit(flash, verdict.minimum).verdict is Verdict.FITS_WITH_EXPERT_OFFLOAD
    assert fit(flash, verdict.minimum - 1).verdict is Verdict.TOO_LARGE


def test_a_server_for_what_is_too_large() -> None:
    verdict = fit(pro, 24 * GB, total=25 * GB)
    assert verdict.verdict is Verdict.TOO_LARGE
    assert (verdict.place, verdict.expert_budget, verdict.longest_context) == (None, None, 0)
    assert any("42.8 GB must be in memory" in line for line in verdict.reasons)
    assert [line for line in verdict.advice if "server on a machine with 852 GB" in line]
    assert not any("Close" in line for line in verdict.advice)  # no closing of programs would be enough


def test_closing_programs_where_that_is_enough() -> None:
    assert any("Close programs that hold" in line for line in fit(flash, 10 * GB, total=25 * GB).advice)


def test_offload_needs_the_disk() -> None:
    verdict = fit(flash, 24 * GB, disk=80 * GB, on_disk=False)
    assert verdict.verdict is Verdict.TOO_LARGE
    assert any("156 GB of disk" in line for line in verdict.advice)
    assert fit(flash, 24 * GB, disk=80 * GB, on_disk=True).verdict is Verdict.FITS_WITH_EXPERT_OFFLOAD
    assert fit(flash, 24 * GB, disk=None, on_disk=False).verdict is Verdict.FITS_WITH_EXPERT_OFFLOAD


def test_weights_that_must_be_fetched_are_mentioned() -> None:
    assert any("they take 156 GB of disk." in line for line in fit(flash, 200 * GB, on_disk=False).advice)
    short = fit(flash, 200 * GB, on_disk=False, disk=GB)
    assert any("only 1.00 GB are free" in line for line in short.advice)
    assert fit(flash, 200 * GB).advice == ()


def test_shorter_context_and_smaller_cache_are_offered() -> None:
    weights = fit(flash, 0).needed - kv_bytes(flash, 131_072, COARSE).held
    verdict = fit(flash, weights + GB, context=1_048_576, cache=CacheFormat.FP32)
    assert verdict.verdict is Verdict.FITS_WITH_EXPERT_OFFLOAD
    assert any("at most 70,9" in line and "fits into memory" in line for line in verdict.advice)
    verdict = fit(flash, weights + 4 * GB, context=1_048_576, cache=CacheFormat.FP32)
    assert any("cache format fp8+fp4 all of it fits" in line for line in verdict.advice)
    base = fit(flash, 0).minimum - kv_bytes(flash, 131_072, COARSE).held
    verdict = fit(flash, base + 8 * GB, context=1_048_576, cache=CacheFormat.FP32)
    assert verdict.verdict is Verdict.TOO_LARGE
    assert any("cache format bf16 it runs with expert offload" in line for line in verdict.advice)
    assert any("it runs with expert offload" in line and "at most" in line for line in verdict.advice)


def test_gpus() -> None:
    h200 = Gpu("H200", 141 * GB, 140 * GB)
    large = Gpu("large", 192 * GB, 190 * GB)
    verdict = fit(flash, 24 * GB, gpus=(h200, large))
    assert verdict.verdict is Verdict.FITS and verdict.place is Place.GPU
    assert any("--device cuda, or serve it" in line for line in verdict.advice)
    assert verdict.gpu_shares == ()
    for available in (24 * GB, 8 * GB):
        h100 = Gpu("H100", 80 * GB, 79 * GB)
        verdict = fit(flash, available, gpus=(h100, h100))
        assert verdict.verdict is not Verdict.FITS and verdict.gpu_shares == ()


def test_a_gpu_for_all_but_the_experts() -> None:
    small, large = Gpu("small", 8 * GB, 8 * GB), Gpu("large", 24 * GB, 24 * GB)
    with_small, with_large = (fit(flash, 200 * GB, gpus=(gpu,)) for gpu in (small, large))
    assert with_small.place is with_large.place is Place.RAM
    assert with_small.advice == ()
    assert any("--device cuda" in line for line in with_large.advice)


@pytest.mark.parametrize("config", [flash, pro])
def test_several_gpus_hold_it_layer_by_layer(config: ModelConfig) -> None:
    needed = sum(weight_bytes(config).values()) + kv_bytes(config, 131_072, COARSE).held
    gpus = tuple(Gpu("big", needed, needed // 3) for _ in range(4))
    verdict = fit(config, 8 * GB, gpus=gpus)
    assert verdict.verdict is Verdict.FITS and verdict.place is Place.GPU
    shares = verdict.gpu_shares
    assert [n for share in shares for n in range(share.first, share.last + 1)] == list(
        range(config.num_hidden_layers)
    )
    assert sum(share.nbytes for share in shares) == needed
    assert max(share.nbytes for share in shares) < 1.1 * needed / 4
    assert any("layers 0 to" in line and "GPU 0 (big)" in line for line in verdict.reasons)


def test_unknown_memory() -> None:
    verdict = fit(flash, None)
    assert verdict.verdict is Verdict.UNKNOWN and verdict.available is None
    assert len(verdict.advice) == 1


def test_stored_bytes_count_where_they_are_known() -> None:
    half = {part: size // 2 for part, size in weight_bytes(flash).items()}
    machine = Machine(90 * GB)
    verdict = judge(flash, machine, context=1000, cache=COARSE, weights=half, on_disk=True)
    assert verdict.verdict is Verdict.FITS


@pytest.mark.parametrize("available", [0, 10 * GB, 20 * GB, 200 * GB, 2000 * GB])
@pytest.mark.parametrize("config", [NANO, flash, pro], ids=["nano", "flash", "pro"])
def test_every_line_is_one_line(config: ModelConfig, available: int) -> None:
    verdict = fit(config, available, on_disk=False, context=4096)
    assert all(line and "\n" not in line for line in (*verdict.reasons, *verdict.advice))


def test_longest_context() -> None:
    for room in (20 * 10**6, GB, 3 * GB):
        longest = longest_context(flash, room, COARSE)
        assert kv_bytes(flash, longest, COARSE).held <= room < kv_bytes(flash, longest + 1, COARSE).held
    assert longest_context(flash, 100, COARSE) == longest_context(flash, -5, COARSE) == 0
    assert longest_context(replace(flash, max_position_embeddings=99), GB, COARSE) == 99


def test_sizes_for_people() -> None:
    sizes = (584, 999.6, 3_644_416, 9_995_000, 99_949_000, 147_169_738_752, 1_234_567_000_000)
    assert [gigabytes(size) for size in sizes] == [
        "584 B", "1.00 kB", "3.64 MB", "10.0 MB", "99.9 MB", "147 GB", "1.23 TB",
    ]  # fmt: skip


# --- Reading a machine ------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "proc/meminfo", "MemTotal:  16000000 kB\nMemFree: 5 kB\nMemAvailable:  12000000 kB\n")
    return tmp_path


def put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def look(root: Path) -> tuple[int | None, int | None]:
    machine = read_machine(root, root=root, gpus=False)
    assert machine.disk_free is not None and machine.gpus == ()
    return machine.total, machine.available


def test_memory_without_limits(root: Path) -> None:
    assert look(root) == (16_384_000_000, 12_288_000_000)
    put(root / "proc/self/cgroup", "0::/user.slice\n")
    put(root / "sys/fs/cgroup/user.slice/memory.max", "max\n")
    put(root / "sys/fs/cgroup/user.slice/memory.current", "1\n")
    assert look(root) == (16_384_000_000, 12_288_000_000)


def test_limit_of_control_groups_2(root: Path) -> None:
    put(root / "proc/self/cgroup", "0::/a/b\n")
    group = root / "sys/fs/cgroup/a"
    put(group / "memory.max", f"{8 * GB}\n")
    put(group / "memory.current", f"{3 * GB}\n")
    put(group / "memory.stat", f"anon 5\ninactive_file {GB}\n")
    assert look(root) == (8 * GB, 6 * GB)  # a limit above one's own group counts, the page cache doesn't
    put(group / "b/memory.max", f"{4 * GB}\n")
    put(group / "b/memory.current", f"{5 * GB}\n")
    assert look(root) == (4 * GB, 0)


def test_limit_of_control_groups_1(root: Path) -> None:
    put(root / "proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/job/1\n0::/\n")
    group = root / "sys/fs/cgroup/memory"
    put(group / "memory.limit_in_bytes", "9223372036854771712\n")
    put(group / "memory.usage_in_bytes", "1\n")
    assert look(root)[1] == 12_288_000_000
    put(group / "job/1/memory.limit_in_bytes", f"{2 * GB}\n")
    put(group / "job/1/memory.usage_in_bytes", f"{GB}\n")
    put(group / "job/1/memory.stat", f"inactive_file 7\ntotal_inactive_file {GB // 2}\n")
    assert look(root) == (2 * GB, 3 * GB // 2)


def test_a_group_outside_of_the_container(root: Path) -> None:
    put(root / "proc/self/cgroup", "0::/../elsewhere\nnonsense\n")
    put(root / "sys/fs/cgroup/memory.max", f"{GB}\n")
    put(root / "sys/fs/cgroup/memory.current", "0\n")
    assert look(root) == (GB, GB)


def test_systems_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sysconf(name: str) -> int:
        if name == "SC_AVPHYS_PAGES":
            raise ValueError("unrecognized configuration name")
        return {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}[name]

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert look(tmp_path) == (4_096_000, 4_096_000)
    monkeypatch.delattr(os, "sysconf")
    assert look(tmp_path) == (None, None)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert read_machine(tmp_path / "no", gpus=False).disk_free is None


SMI = "#!/bin/sh\nprintf 'NVIDIA H200, 143771, 140000\\nGB10, [N/A], [N/A]\\nodd, name, 10, 5\\n\\n'\n"


@pytest.mark.parametrize(
    ("script", "count"), [(SMI, 2), ("#!/bin/sh\nexit 9\n", 0), ("#!/bin/sh\nexec sleep 9\n", 0), ("\0", 0)]
)
def test_gpus_are_asked_of_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, count: int
) -> None:
    program = tmp_path / "nvidia-smi"
    put(program, script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if "sleep" in script:
        monkeypatch.setattr(machines, "_GPU_TIMEOUT", 0.1)
    found = read_machine(tmp_path).gpus
    assert len(found) == count
    if count:
        assert found[0] == Gpu("NVIDIA H200", 143_771 << 20, 140_000 << 20)
        assert found[1] == Gpu("odd, name", 10 << 20, 5 << 20)


def test_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_machine(tmp_path).gpus == ()
