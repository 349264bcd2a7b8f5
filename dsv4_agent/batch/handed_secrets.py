"""Keys on their way to a worker: by its standard input, for `/proc` shows what environment it began with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from dsv4_tools.environment import is_secret_name


def parted(environment: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """The environment to start with, and a line with the rest of it, for `take`."""
    secrets = {name: value for name, value in environment.items() if is_secret_name(name)}
    open_ones = {name: value for name, value in environment.items() if name not in secrets}
    return open_ones, json.dumps(secrets).encode("ascii") + b"\n"


def take(line: bytes) -> None:
    """Make the secrets of a line variables of this process; an empty line holds none. Raises `ValueError`."""
    if line.strip():
        os.environ.update(json.loads(line))
