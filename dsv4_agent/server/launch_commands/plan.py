"""From a model and a machine to the commands that serve it, and what should be known about them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dsv4_agent.server.launch_commands.checkpoint import Checkpoint, Drafts, Generation, identify
from dsv4_agent.server.launch_commands.errors import LaunchError
from dsv4_agent.server.launch_commands.hardware import Architecture, Gpus, own_gpus, parse_gpus
from dsv4_agent.server.launch_commands.room import room_for

Command = tuple[str, ...]
_MOST_NODES: Final = 64


class LaunchEngine(StrEnum):
    """The engines whose commands are known."""

    VLLM = "vllm"
    SGLANG = "sglang"


class Parallel(StrEnum):
    """How GPUs share the work: `data` for many conversations at once, `tensor` for the fastest single one."""

    DATA = "data"
    TENSOR = "tensor"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """What is to be served where. `gpus` are those of one node (None: this machine's).

    `head` is the address of node 0, for more than one node; `context` (tokens) bounds the window.
    """

    engine: LaunchEngine
    model: str
    gpus: str | None = None
    nodes: int = 1
    node_rank: int = 0
    head: str | None = None
    parallel: Parallel | None = None
    context: int | None = None
    host: str = "127.0.0.1"
    port: int = 8_000


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Commands to run one after the other on this node, the last of which serves; `notes` are lines."""

    commands: tuple[Command, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A request with everything looked up; what the writers of commands read."""

    request: LaunchRequest
    checkpoint: Checkpoint
    gpus: Gpus
    parallel: Parallel
    window: int

    @property
    def all_gpus(self) -> int:
        """Of all nodes."""
        return self.gpus.count * self.request.nodes

    @property
    def shortened(self) -> bool:
        """Whether the window is less than the model's own."""
        return self.window < self.checkpoint.config.max_position_embeddings


def launch_command(request: LaunchRequest) -> LaunchPlan:
    """The commands. Raises `LaunchError` for what is not known, contradicts itself or can't fit."""
    _check_nodes(request)
    checkpoint = identify(request.model)
    gpus = own_gpus() if request.gpus is None else parse_gpus(request.gpus)
    layout = _layout(request, checkpoint, gpus)
    match request.engine:
        case LaunchEngine.VLLM:
            from dsv4_agent.server.launch_commands.vllm import commands, remarks
        case LaunchEngine.SGLANG:
            from dsv4_agent.server.launch_commands.sglang import commands, remarks
    notes = (
        f"{checkpoint.family} ({checkpoint.generation}) on {gpus}"
        + (f", {request.nodes} nodes" if request.nodes > 1 else "")
        + f": a window of {layout.window:,} tokens",
        *remarks(layout),
        *_common_remarks(layout),
        "untested here: written after the engine's own recipes, never run by this project",
    )
    return LaunchPlan(commands(layout), notes)


def as_shell(plan: LaunchPlan) -> str:
    """The plan for a shell: notes as comments, one option a line."""
    lines = [f"# {note}" for note in plan.notes]
    lines += [_wrapped(command) for command in plan.commands]
    return "\n".join(lines) + "\n"


def _check_nodes(request: LaunchRequest) -> None:
    if not 1 <= request.nodes <= _MOST_NODES:
        raise LaunchError(f"--nodes {request.nodes} makes no sense: give 1 to {_MOST_NODES}")
    if not 0 <= request.node_rank < request.nodes:
        raise LaunchError(f"--node-rank {request.node_rank} is none of {request.nodes} nodes: count from 0")
    if request.nodes > 1 and request.head is None:
        raise LaunchError("several nodes have to find each other: give --head-address, the address of node 0")


def _layout(request: LaunchRequest, checkpoint: Checkpoint, gpus: Gpus) -> Layout:
    parallel = request.parallel or _usual(request.engine, gpus)
    total = gpus.count * request.nodes
    experts = checkpoint.config.n_routed_experts
    if experts % total or (
        parallel is Parallel.TENSOR and checkpoint.config.num_attention_heads % gpus.count
    ):
        raise LaunchError(
            f"{total} GPUs can't share {experts} experts evenly: use a number that divides them, as 2, 4, 8"
        )
    room = room_for(checkpoint, gpus, request.nodes, replicated=parallel is Parallel.DATA)
    if request.context is not None and request.context > room.window:
        raise LaunchError(
            f"a window of {request.context:,} tokens doesn't fit {gpus}: at most {room.window:,} do; "
            "ask for less, or take more GPUs"
        )
    return Layout(request, checkpoint, gpus, parallel, request.context or room.window)


def _usual(engine: LaunchEngine, gpus: Gpus) -> Parallel:
    """As the recipes have it; a node of one GPU can only split the model with others."""
    return Parallel.DATA if engine is LaunchEngine.VLLM and gpus.count > 1 else Parallel.TENSOR


def _common_remarks(layout: Layout) -> list[str]:
    remarks = []
    if layout.checkpoint.generation is Generation.UNKNOWN:
        remarks.append(
            "the folder doesn't tell whether it is a preview or 0731 checkpoint: set dialect yourself"
        )
    if layout.checkpoint.drafts is Drafts.UNKNOWN:
        remarks.append("what drafts for this checkpoint isn't known here: no speculative decoding is set")
    if layout.gpus.architecture is Architecture.OTHER:
        remarks.append(f"{layout.gpus.name}: not in the recipes; its kernels may lack FP8 or FP4")
    dialect = "v4-0731" if layout.checkpoint.generation is Generation.JULY else "v4"
    anywhere = layout.request.host in ("0.0.0.0", "::")
    host = (layout.request.head or "THIS-MACHINE") if anywhere else layout.request.host
    url = f"http://{host}:{layout.request.port}/v1"
    remarks.append(f"then: dsv4 model add NAME {url} --dialect {dialect}")
    return remarks


def _wrapped(command: Command) -> str:
    """A command with each option on a line of its own."""
    groups: list[list[str]] = [[]]
    for word in command:
        if word.startswith("-") and groups[-1]:
            groups.append([])
        groups[-1].append(shlex.quote(word))
    return " \\\n  ".join(" ".join(group) for group in groups)
