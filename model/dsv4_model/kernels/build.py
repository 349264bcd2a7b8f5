"""Compile the native library: while the package is installed, or at first use into the user's cache.

The library's name carries a digest of its sources, of the flags and of the kind of machine, so that a stale
one is never loaded. Nothing but a C++17 compiler is needed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["BuildError", "build", "find_compiler", "library_name"]

SOURCES = Path(__file__).parent / "native"
_FLAGS = (
    "-std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=fast -fno-math-errno -fno-trapping-math "
    "-Wno-psabi -Wno-maybe-uninitialized -pthread"
).split()
_TARGETS_X86 = {
    "generic": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mavx512vnni", "-mprefer-vector-width=512"],
}
_AMX = [*_TARGETS_X86["avx512"], "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"]
"""Of the target that is left out where the compiler doesn't know these (g++ 11 and clang 12 do)."""
_TIMEOUT = 600  # seconds of one compiler run


class BuildError(Exception):
    """The native library can't be built. Carries a remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy


def find_compiler() -> str | None:
    """The C++ compiler: ``$CXX``, else the first of c++, g++, clang++ on PATH."""
    wanted = os.environ.get("CXX")
    if wanted:
        return shutil.which(wanted.split()[0])
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


def targets() -> dict[str, list[str]]:
    """Instruction sets and their flags for this kind of processor."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return _TARGETS_X86
    return {"generic": []}


def _targets_of(compiler: str) -> dict[str, list[str]]:
    """Those that this compiler can build."""
    found = targets()
    if "avx512" not in found or not sys.platform.startswith("linux"):
        return found
    probe = [compiler, *_FLAGS, *_AMX, "-fsyntax-only", "-x", "c++", os.devnull]
    try:
        _run(probe)
    except BuildError:
        return found
    return {**found, "amx": _AMX}


def library_name() -> str:
    """File name of the library that belongs to these sources on this kind of machine."""
    digest = hashlib.sha256()
    for file in sorted(SOURCES.iterdir()):
        if file.suffix in (".h", ".cpp"):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    digest.update(repr((_FLAGS, targets(), _AMX, sys.platform, platform.machine())).encode())
    return f"libdsv4-{digest.hexdigest()[:16]}.so"


def build(folder: Path) -> Path:
    """Compile into ``folder`` and return the library; one that is already there is kept.

    Raises:
        BuildError: no compiler, or it failed; nothing is left in the folder then.
    """
    target = folder / library_name()
    if target.is_file():
        return target
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("There is no C++ compiler on PATH.", "Install g++ or clang++, or set CXX.")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies here is loaded as code
        with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch:
            made = _compile(compiler, Path(scratch))
            made.replace(target)
    except OSError as error:
        raise BuildError(
            f"The native library can't be written to {folder} ({error.strerror}).",
            "Set DSV4_CACHE_DIR to a folder with room.",
        ) from error
    return target


def _compile(compiler: str, scratch: Path) -> Path:
    chosen = _targets_of(compiler)
    jobs = {
        name: ["-c", str(SOURCES / "engine.cpp"), f"-DISA={name}", *flags] for name, flags in chosen.items()
    }
    jobs["dispatch"] = ["-c", str(SOURCES / "dispatch.cpp"), *(["-DDSV4_AMX"] if "amx" in chosen else [])]
    objects = {name: scratch / f"{name}.o" for name in jobs}
    with ThreadPoolExecutor(max_workers=min(len(jobs), os.cpu_count() or 1)) as pool:
        runs = [
            pool.submit(_run, [compiler, *_FLAGS, *arguments, "-o", str(objects[name])])
            for name, arguments in jobs.items()
        ]
        for run in runs:
            run.result()
    library = scratch / "library.so"
    _run([compiler, "-shared", "-pthread", *map(str, objects.values()), "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"{command[0]} did not finish in {_TIMEOUT} s.", "Is the machine overloaded?"
        ) from error
    if done.returncode:
        first = next(
            (line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:300]
        )
        raise BuildError(
            f"{command[0]} failed: {first}", "A compiler with C++17 is needed (g++ 9, clang 12)."
        )
