"""A Ray cluster, joined or started for one batch, and what can be wrong with that."""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, Final

from dsv4_agent.batch.bundle import Bundle
from dsv4_agent.batch.carried_model import CarriedModel, is_loopback
from dsv4_agent.batch.ray_node import Order
from dsv4_agent.loop.events import Subtype
from dsv4_agent.version import __version__
from dsv4_agent.workbench.failures import RunFailure

_KNOCK_SECONDS: Final = 10.0
_SWEEP_SECONDS: Final = 15.0
VERSIONS: Final = (__version__, platform.python_version())


def require_ray() -> None:
    """Raises `RunFailure` (52) where the package isn't installed."""
    if find_spec("ray") is None:
        remedy = "Run: pip install 'dsv4-agent[ray]'"
        raise RunFailure(Subtype.CONFIG, "--executor ray needs the package ray", remedy)


class Cluster:
    """The cluster of `address`; without one, one of this machine that ends with the batch.

    All methods block. One at a time in a process.
    """

    def __init__(self, address: str | None, slots: int) -> None:
        """`slots`: how many items are to be done at once, should the cluster be one of our own."""
        self._address = address
        self._slots = slots

    def open(self, model: CarriedModel) -> None:
        """Join or start it. Raises `RunFailure` (52)."""
        require_ray()
        address = self._address
        if address is not None and address.startswith("ray://"):
            cause = f"--address {address} is one of Ray's client, over which tasks can't report"
            remedy = "Run dsv4 batch on a machine of the cluster, with --address auto."
            raise RunFailure(Subtype.CONFIG, cause, remedy)
        if address is not None and ":" in address:
            _require_listener(address)
        # No word of what is done here to anybody, unless the cluster's owner wants it.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        try:
            if address is None:
                own = {"num_cpus": max(self._slots, os.cpu_count() or 1), "include_dashboard": False}
                with _without(model.secrets):  # the cluster's processes would hand them on
                    ray.init("local", **own, **quiet)
            else:
                ray.init(address, **quiet)
        except (RuntimeError, ConnectionError, ValueError, OSError, ray.exceptions.RayError) as error:
            cause = "Ray can't be started here" if address is None else f"no Ray cluster answers at {address}"
            if "ersion mismatch" in str(error):
                cause = f"the Ray cluster at {address} is of another version"
            raise RunFailure(Subtype.CONFIG, f"{cause}: {_shortened(error)}", REMEDY) from error
        self._check(model)

    def _check(self, model: CarriedModel) -> None:
        import ray

        if ray.cluster_resources().get("CPU", 0) < 1:
            cause = "the Ray cluster has no CPU to give"
            raise RunFailure(Subtype.CONFIG, cause, "Start its nodes with --num-cpus of 1 at least.")
        machines = {node["NodeManagerAddress"] for node in _alive()}
        if model.is_of_this_machine and machines - {ray.util.get_node_ip_address()}:
            cause = f"{model.base_url} is another machine on each of the cluster's {len(machines)} machines"
            raise RunFailure(Subtype.CONFIG, cause, "Name the server by an address that all of them reach.")

    def share(self, bundle: Bundle) -> Any:
        """Put a bundle where all nodes get it from."""
        import ray

        return ray.put(bundle)

    def submit(self, order: Order, bundle: Any) -> Any:
        """Start a task; an async iterator of references to its reports."""
        import ray

        placed = {"num_cpus": 1, "max_retries": 0, "scheduling_strategy": "SPREAD"}
        task = ray.remote(num_returns="streaming", **placed)(_by_value())
        return task.remote(VERSIONS, ray.cloudpickle.dumps(order), [bundle])

    def cancel(self, stream: Any) -> None:
        """End a task at once."""
        import ray

        with suppress(ray.exceptions.RayError, ValueError, TypeError):
            ray.cancel(stream, force=True)

    def close(self, batch: str) -> None:
        """Have every node remove what the batch left there, then leave; safe to call twice."""
        import ray

        if not ray.is_initialized():
            return
        with suppress(ray.exceptions.RayError, RuntimeError):
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
            swept = [
                ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=here(node["NodeID"], soft=False))(
                    _sweeping()
                ).remote(batch)
                for node in _alive()
            ]
            ray.wait(swept, num_returns=len(swept), timeout=_SWEEP_SECONDS)
        ray.shutdown()


def lost() -> tuple[type[Exception], ...]:
    """What Ray raises where a task's worker or node is gone, and not the task to blame."""
    from ray import exceptions as e

    return (e.WorkerCrashedError, e.NodeDiedError, e.OutOfMemoryError, e.OutOfDiskError, e.ObjectLostError)


def failed() -> type[Exception]:
    """What Ray raises where a task could not be done."""
    from ray.exceptions import RayError

    failure: type[Exception] = RayError
    return failure


REMEDY: Final = (
    "Check --address, and that all machines have the same Ray, Python and dsv4; a cluster that asks for a "
    "token wants RAY_AUTH_MODE=token."
)


def _require_listener(address: str) -> None:
    """Ray would knock for minutes where nobody is."""
    from ray.util import get_node_ip_address

    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if is_loopback(host):
        host = get_node_ip_address()  # as Ray itself reads it
    try:
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        cause = f"no Ray cluster answers at {address}: {error}"
        remedy = "Check --address, and that the cluster runs: ray status."
        raise RunFailure(Subtype.CONFIG, cause, remedy) from error


def _by_value() -> Callable[..., Iterator[Any]]:
    """The task. Ray sends a function within a function as code, so that it can say what a node lacks."""

    def dsv4_item(versions: tuple[str, str], order: bytes, bundle: list[Any]) -> Iterator[Any]:
        import pickle
        import platform
        import socket

        import ray

        host = socket.gethostname()
        python = platform.python_version()
        try:
            from dsv4_agent.version import __version__ as own
        except ImportError as error:
            yield "unfit", f"node {host} has no dsv4-agent ({error})"
            return
        if (own, python) != tuple(versions):
            mine = f"dsv4 {versions[0]} and Python {versions[1]}"
            yield "unfit", f"node {host} has dsv4 {own} and Python {python}, and here are {mine}"
            return
        yield "node", host
        from dsv4_agent.batch.ray_node import work

        node = ray.get_runtime_context().get_node_id()[:16]
        for report in work(pickle.loads(order), node, lambda: ray.get(bundle[0])):
            yield "report", pickle.dumps(report)

    return dsv4_item


def _sweeping() -> Callable[[str], None]:
    def dsv4_sweep(batch: str) -> None:
        from dsv4_agent.batch.node_folder import remove_everywhere

        remove_everywhere(batch)

    return dsv4_sweep


def _alive() -> list[Any]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


@contextmanager
def _without(secrets: frozenset[str]) -> Iterator[None]:
    """Take variables that hold secrets out of the environment for a moment."""
    kept = {name: os.environ.pop(name) for name in secrets if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
