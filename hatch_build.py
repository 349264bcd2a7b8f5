"""Build hook: compile the native library into the package where there is a compiler; do without where not."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("model", "dsv4_model", "kernels")


class NativeBuildHook(BuildHookInterface[Any]):
    """Adds ``dsv4_model/kernels/built/libdsv4-*.so``. DSV4_BUILD_NATIVE=0 leaves it to the first use."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is put together; ``version`` is ``standard`` or ``editable``."""
        if self.target_name != "wheel" or os.environ.get("DSV4_BUILD_NATIVE") == "0":
            return
        root = Path(self.root)
        build = _load(root / KERNELS / "build.py")
        folder = root / KERNELS / "built"
        try:
            library = build.build(folder)
        except build.BuildError as error:
            self.app.display_warning(f"The native engine was not built, and is built at first use: {error}")
            return
        for stale in folder.glob("libdsv4-*.so"):
            if stale != library:
                stale.unlink()
        if version == "editable":
            return  # it is found in the source tree
        build_data["pure_python"] = False
        build_data["infer_tag"] = False
        build_data["tag"] = f"py3-none-{_platform()}"
        build_data["force_include"][str(library)] = f"dsv4_model/kernels/built/{library.name}"


def _load(file: Path) -> Any:
    """The module by path: the package itself can't be imported while it is being built."""
    spec = importlib.util.spec_from_file_location("dsv4_kernels_build", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _platform() -> str:
    import sysconfig

    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
