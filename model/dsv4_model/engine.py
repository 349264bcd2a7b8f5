"""The loaded model: where it came from, its tokenizer, its back end, and new sequences over it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dsv4_model.cache.formats import CacheFormat
from dsv4_model.cache.kv_cache import Boundary, KVCache
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.cache.pages import CacheMemoryError
from dsv4_model.cache.space import CacheSpace
from dsv4_model.checkpoint_reader import Checkpoint, open_checkpoint
from dsv4_model.config import ModelConfig
from dsv4_model.devices import DeviceError
from dsv4_model.generation import Constraint
from dsv4_model.layer_split import LayerSplitError
from dsv4_model.passes import HostSites, Passes, Piece, Stage
from dsv4_model.placement import is_apart, placed_by_name
from dsv4_model.prefix_store import PrefixStore
from dsv4_model.sequence import Sequence, SyncReport
from dsv4_model.sequence_errors import (
    ContextOverflowError,
    PrefillCancelledError,
    SequenceError,
    StopReason,
)
from dsv4_model.store_key import StoreKey
from dsv4_model.token_prefix import common_prefix
from dsv4_model.tokenizer import Tokenizer, TokenizerError
from dsv4_model.transformer import DeepseekV4
from dsv4_model.weights import LazyExperts, ModelWeights

if TYPE_CHECKING:
    from dsv4_model.kernels.gpu.passes import TritonPasses
    from dsv4_model.kernels.native import NativePasses
    from dsv4_model.torch_passes import TorchPasses

__all__ = [
    "NANO",
    "CacheFormat",
    "CacheMemoryError",
    "Constraint",
    "ContextOverflowError",
    "Engine",
    "EngineError",
    "EngineOptions",
    "PrefillCancelledError",
    "Sequence",
    "SequenceError",
    "StopReason",
    "SyncReport",
]

NANO = "nano"
_NANO_WEIGHTS = Path(__file__).parent / "nano" / "weights"
_SMALL = 256 << 20
"""Bytes of weights up to which a checkpoint is read whole instead of mapped."""
_MOST_THREADS = 4096
_STORED_MARGIN = 256
"""A state on disk must save more tokens than this to be worth reading."""

_log = logging.getLogger(__name__)


class EngineError(Exception):
    """A model can't be made ready. Carries a remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run a model.

    Attributes:
        threads: CPU threads of the native back end; None takes one a physical core.
        cache_format: storage of the KV cache; None takes what the checkpoint was trained for: FP8 rows with
            FP4 index keys where it is quantised, fp32 otherwise.
        native: None uses the native back end where it can be had; False never; True or raise.
        isa: instruction set of the native back end; None the best.
        speculate: draft with the MTP block, if there is one, as long as that pays.
        store: where states are kept on disk; None keeps none.
        memory_budget: most bytes of routed experts in memory; None holds all of them.
        count_experts: count which experts tokens take, in `Engine.expert_counts`.
        device: where weights and cache go, e.g. ``"cuda"``; None leaves the weights where they are. Passes
            on a GPU are Triton kernels where Triton is installed (`dsv4_model.kernels.gpu`), else PyTorch.
            A list such as ``"cuda:0,cuda:1"`` splits the layers over several devices by their bytes;
            ``"cuda"`` does so over all GPUs where the first is too small.
        expert_device: where experts go; None: to their layers' devices, or, where these are too small and
            when they are streamed, to main memory. There they are computed by the native back end.
    """

    threads: int | None = None
    cache_format: CacheFormat | None = None
    native: bool | None = None
    isa: str | None = None
    speculate: bool = True
    store: PrefixStore | None = None
    memory_budget: int | None = None
    count_experts: bool = False
    device: str | None = None
    expert_device: str | None = None


class Engine:
    """One model in memory. Immutable once loaded; sequences made from it own all changing state.

    Not thread-safe: passes of all its sequences come from one thread at a time.
    """

    def __init__(
        self,
        model: DeepseekV4 | ModelWeights,
        tokenizer: Tokenizer,
        name: str,
        options: EngineOptions = EngineOptions(),
        checkpoint: Checkpoint | None = None,
    ) -> None:
        weights = model if isinstance(model, ModelWeights) else ModelWeights.of_module(model)
        vocabulary = weights.config.vocab_size
        if tokenizer.size > vocabulary:
            raise EngineError(
                f"The tokenizer {tokenizer.name} has {tokenizer.size} ids but the model has {vocabulary}.",
                "Use the tokenizer.json that belongs to these weights.",
            )
        choice = options.cache_format or _natural_format(weights.config)
        self.layout = CacheLayout.of(weights.config, choice, with_mtp=weights.mtp is not None)
        weights, self.stages = _placed(weights, self.layout, options)
        self.weights = weights
        self.tokenizer = tokenizer
        self.name = name
        self.options = options
        self.notice: str | None = None
        self._host: HostSites | None = None
        self.passes = self._open_passes()
        stages = self.stages
        self.space = CacheSpace.of(self.layout, [s.device for s in stages], [s.layers for s in stages])
        self.speculates = options.speculate and weights.mtp is not None
        self.resident: weakref.WeakSet[Sequence] = weakref.WeakSet()
        self.expert_counts: Tensor | None = None
        if options.count_experts:
            shape = (weights.config.num_hidden_layers + 1, weights.config.n_routed_experts)
            self.expert_counts = torch.zeros(shape, dtype=torch.int64)
        self._checkpoint = checkpoint
        self._key: StoreKey | None = None

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        threads: int | None = None,
        memory_budget: int | None = None,
        options: EngineOptions | None = None,
    ) -> Engine:
        """Open a checkpoint folder, or ``"nano"``, the built-in model. Weights stay packed, and mapped.

        Args:
            source: ``"nano"`` or a folder with ``config.json``, weights and, unless its vocabulary is the
                released one, ``tokenizer.json``.
            threads: as in `EngineOptions`, which it overrides.
            memory_budget: as in `EngineOptions`, which it overrides.
            options: everything else.

        Raises:
            EngineError: the built-in weights are absent, or tokenizer and weights don't belong together.
            CheckpointError, ConfigError, TokenizerError: what is wrong with the folder.
            NativeUnavailableError: ``native`` was demanded and can't be had.
        """
        options = options or EngineOptions()
        if threads is not None:
            options = replace(options, threads=threads)
        if memory_budget is not None:
            options = replace(options, memory_budget=memory_budget)
        if options.threads is not None:
            if not 1 <= options.threads <= _MOST_THREADS:
                remedy = f"Choose from 1 to {_MOST_THREADS:,}; one a physical core is fastest."
                raise EngineError(f"threads is {options.threads}.", remedy)
            torch.set_num_threads(options.threads)
        path = _NANO_WEIGHTS if source == NANO else Path(source)
        if source == NANO and not (path / "config.json").is_file():
            raise EngineError(
                f"The built-in model is missing: there is no {path / 'config.json'}.",
                "Reinstall dsv4-agent, or train it with `python -m dsv4_model.nano.train`.",
            )
        checkpoint = open_checkpoint(path)
        weights = _open_weights(checkpoint, options)
        name = NANO if source == NANO else path.resolve().name
        return cls(weights, _tokenizer(path, weights.config), name, options, checkpoint)

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants of the model."""
        return self.weights.config

    @property
    def context_window(self) -> int:
        """Most tokens that one sequence can hold."""
        return self.config.max_position_embeddings

    @property
    def store_key(self) -> StoreKey:
        """What a stored state must have been computed with to be usable here."""
        if self._key is None:
            files = self._checkpoint.files if self._checkpoint is not None else {}
            key = StoreKey.of(self.weights, self.tokenizer, self.layout, files)
            self._key = replace(key, name=self.name)
        return self._key

    def sequence(self) -> Sequence:
        """A new, empty timeline. Raises `CacheMemoryError`."""
        return Sequence(self)

    def new_cache(self) -> KVCache:
        """An empty cache in this engine's format. Raises `CacheMemoryError`."""
        return self.space.new_cache()

    def forward(self, pieces: Items[Piece]) -> tuple[Tensor, Tensor]:
        """One pass over the new tokens of several timelines; see `Passes.forward`."""
        if self.options.memory_budget is not None:
            self._announce({token for piece in pieces for token in piece.ids})
        return self.passes.forward(pieces, self.expert_counts)

    def _announce(self, tokens: set[int]) -> None:
        """Start reading the experts of layers that route by token: theirs are known before the pass."""
        for layer in self.weights.layers:
            if layer.tid2eid is not None and isinstance(layer.experts, LazyExperts):
                layer.experts.announce(set(layer.tid2eid[sorted(tokens)].flatten().tolist()))

    def check(self) -> None:
        """Raise `CheckpointError` if the weights' files have changed since they were opened."""
        if self._checkpoint is not None:
            self._checkpoint.verify_unchanged()

    def find_boundary(self, tokens: list[int], asking: Sequence) -> Boundary | None:
        """The longest boundary of any other living timeline that ``tokens`` begin with."""
        best: Boundary | None = None
        for other in self.resident:
            if other is asking:
                continue
            found = other.latest_boundary(common_prefix(other.tokens, tokens))
            if found is not None and (best is None or found.position > best.position):
                best = found
        return best

    def find_stored(self, tokens: list[int], held: int) -> Boundary | None:
        """The longest state on disk that ``tokens`` begin with, if it saves much beyond ``held`` tokens."""
        store = self.options.store
        if store is None or len(tokens) < held + _STORED_MARGIN:
            return None
        return store.load(self.store_key, tokens, self.space, longer_than=held + _STORED_MARGIN)

    def keep(self, sequence: Sequence, *, cancelled: Callable[[], bool] | None = None) -> int:
        """Write the latest boundary of ``sequence`` to the store; the tokens it covers (0: nothing to keep).

        When ``cancelled`` becomes true, writing ends soon and nothing is left of it.

        Raises:
            StoreError: the disk is full or refuses; what was stored before is intact.
        """
        store = self.options.store
        kept = sequence.boundaries
        if store is None or not kept or kept[-1].position < _STORED_MARGIN:
            return 0
        boundary = kept[-1]
        tokens = sequence.tokens[: boundary.position]
        saved = store.save(self.store_key, tokens, boundary, self.space, cancelled=cancelled)
        return 0 if saved is None else boundary.position

    def _open_passes(self) -> Passes:

        stages = self.stages
        if len(stages) == 1 and stages[0].device.type == "cpu" and self.options.native is not False:
            native = self._open_native()
            if native is not None:
                return native
        every = self.weights.all_layers
        apart = any(is_apart(every[number], stage) for stage in stages for number in stage.layers)
        if apart and self.options.native is not False:
            self._host = self._open_native()
        if len(stages) == 1:
            return self._open_stage(stages[0])
        from dsv4_model.split_passes import SplitPasses

        if any(stage.device.type == "cpu" for stage in stages):
            self.notice = (
                "Running some layers on the CPU with PyTorch, many times slower than the native back "
                "end, which takes all layers or none: leave out --device, or name GPUs alone."
            )
        return SplitPasses(self.config, tuple(self._open_stage(stage) for stage in stages))

    def _open_native(self) -> NativePasses | None:
        """The native back end; None, with a notice, where it can't be had and wasn't demanded."""
        from dsv4_model.kernels.library import NativeUnavailableError, physical_cores
        from dsv4_model.kernels.native import NativePasses

        options = self.options
        threads = options.threads or physical_cores()
        try:
            return NativePasses(self.weights, self.layout, threads=threads, isa=options.isa)
        except NativeUnavailableError as error:
            if options.native:
                raise
            self.notice = f"Running on PyTorch, many times slower than the native back end: {error}"
            _log.warning("%s", self.notice)
            return None

    def _open_stage(self, stage: Stage) -> TorchPasses | TritonPasses:
        layout = self.layout if len(self.stages) == 1 else self.layout.part(stage.layers)
        if stage.device.type == "cuda" and find_spec("triton") is not None:
            from dsv4_model.kernels.gpu.passes import TritonPasses

            return TritonPasses(self.weights, layout, stage, host=self._host)
        from dsv4_model.torch_passes import TorchPasses

        return TorchPasses(self.weights, layout, stage, self._host)


def _placed(
    weights: ModelWeights, layout: CacheLayout, options: EngineOptions
) -> tuple[ModelWeights, tuple[Stage, ...]]:
    """The weights on the devices that are named, and which of them has which layers."""
    if options.device is None:
        return weights, (Stage(weights.embed.data.device, range(len(weights.all_layers))),)
    try:
        return placed_by_name(weights, layout, options.device, options.expert_device)
    except (DeviceError, LayerSplitError) as error:
        raise EngineError(str(error).removesuffix(error.remedy).rstrip(), error.remedy) from error
    except (RuntimeError, AssertionError) as error:  # PyTorch says so that it has no such device, or no room
        problem = f"The model can't be put on {options.device}: {error}."
        raise EngineError(problem, "Run it on the CPU.") from error


def _natural_format(config: ModelConfig) -> CacheFormat:
    return CacheFormat.FP32 if config.quantization_config is None else CacheFormat.FP8_FP4


def _open_weights(checkpoint: Checkpoint, options: EngineOptions) -> ModelWeights:
    if options.memory_budget is None:
        weights = ModelWeights.of_checkpoint(checkpoint, with_mtp=options.speculate)
        return weights.in_memory() if weights.nbytes <= _SMALL else weights
    from dsv4_model.expert_source import StreamedSource

    source = StreamedSource(checkpoint, options.memory_budget)
    try:
        return ModelWeights.of_checkpoint(checkpoint, with_mtp=options.speculate, source=source)
    except BaseException:
        source.store.close()
        raise


def _tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    own = folder / "tokenizer.json"
    if own.is_file():
        return Tokenizer.from_file(own)
    if config.vocab_size < 129_280:  # the released vocabulary can't be this one's
        raise TokenizerError(
            f"{own} does not exist.", "Copy the tokenizer.json that belongs to these weights."
        )
    return Tokenizer.deepseek_v4()
