"""Find, build or refuse the native library, and open an engine in it."""

from __future__ import annotations

import ctypes
import logging
import os
from functools import lru_cache
from pathlib import Path

from dsv4_model.cache_folder import cache_folder
from dsv4_model.kernels import structures as s
from dsv4_model.kernels.build import BuildError, build, library_name

__all__ = ["NativeUnavailableError", "load_library", "packaged_library", "physical_cores"]

_log = logging.getLogger(__name__)
_PACKAGED = Path(__file__).parent / "built"


class NativeUnavailableError(Exception):
    """The native back end can't be used here; PyTorch does the work instead, slower. Carries a remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy


def packaged_library() -> Path:
    """Where the library lies if it was built with the package."""
    return _PACKAGED / library_name()


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL:
    """The library that was built with the package, else the cached one, else one built now.

    Raises:
        NativeUnavailableError: switched off by DSV4_NATIVE=0, no compiler, or it can't be loaded.
    """
    if os.environ.get("DSV4_NATIVE") == "0":
        raise NativeUnavailableError("The native back end is switched off.", "Unset DSV4_NATIVE to use it.")
    path = packaged_library()
    if not path.is_file():
        try:
            path = build(cache_folder("native"))
        except BuildError as error:
            raise NativeUnavailableError(str(error), error.remedy) from error
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailableError(
            f"{path} can't be loaded ({error}).", "Remove it; it is built anew."
        ) from error
    if library.dsv4_abi() != s.ABI:
        raise NativeUnavailableError(f"{path} belongs to another version.", "Remove it; it is built anew.")
    _declare(library)
    return library


def _declare(library: ctypes.CDLL) -> None:
    p, i = ctypes.c_void_p, ctypes.c_int
    signatures: dict[str, tuple[object, tuple[object, ...]]] = {
        "dsv4_isa": (ctypes.c_char_p, ()),
        "dsv4_open": (p, (i, ctypes.c_char_p)),
        "dsv4_close": (None, (p,)),
        "dsv4_forward": (i, (p, p, p, i, p, p, p)),
        "dsv4_draft": (i, (p, p, p, i, p, p, p)),
        "dsv4_matmul": (i, (p, p, p, i, p)),
        "dsv4_mix": (i, (p, p, p, p, i, p, p, p)),
        "dsv4_unmix": (i, (p, p, p, p, p, i, p)),
        "dsv4_moe": (i, (p, p, p, p, p, i, p)),
        "dsv4_attend": (i, (p, p, p, p, p, p)),
        "dsv4_index": (i, (p, p, p, p, p, p, i, p, p)),
        "dsv4_encode_rows": (i, (p, p, p, i, p)),
        "dsv4_decode_rows": (i, (p, p, p, i, p)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments


def physical_cores() -> int:
    """Cores that this process may use, hyper-threads counted once where the system tells."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for cpu in usable:
        try:
            siblings.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            siblings.add(str(cpu))
    return max(1, len(siblings))
