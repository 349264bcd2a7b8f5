"""Devices that this machine lacks: tensors on the CPU that say they are elsewhere and refuse to be mixed.

As on real devices, an operation whose tensors lie on two of them is an error, as are a host's view of a
device's memory and indexing by a tensor of a third place; only ``to``, ``cpu`` and ``copy_`` cross over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

CPU = torch.device("cpu")
_CROSS = {Tensor.copy_, Tensor.__setitem__}
_ON_HOST = {Tensor.numpy, Tensor.__array__}


class Elsewhere(Tensor):
    """A tensor of a pretended device."""

    _place: torch.device

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._place


def _place_of(value: object) -> torch.device | None:
    if isinstance(value, Elsewhere):
        return value._place
    return CPU if isinstance(value, Tensor) else None


def _plain(value: object) -> object:
    return value.as_subclass(Tensor) if isinstance(value, Elsewhere) else value


def _marked(value: object, place: torch.device) -> object:
    if not isinstance(value, Tensor) or place == CPU:
        return value
    made = value.as_subclass(Elsewhere)
    made._place = place
    return made


class _Pretence(TorchFunctionMode):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.crossings: list[tuple[torch.device, torch.device]] = []

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(function, "__name__", "") == "__get__":
            return function(*args, **kwargs) if function is not _device_getter else args[0].device
        places = [p for p in map(_place_of, tree_flatten((args, kwargs))[0]) if p is not None]
        source = args[0]._place if args and isinstance(args[0], Elsewhere) else CPU
        target = kwargs.pop("device", None)
        if function in (Tensor.to, Tensor.cpu):
            target = CPU if function is Tensor.cpu else target
            if target is None and len(args) > 1 and isinstance(args[1], str | torch.device):
                target, args = torch.device(args[1]), (args[0], *args[2:])
            target = source if target is None else torch.device(target)
            copied = kwargs.pop("copy", False) or target != source
            plain = tree_map(_plain, args)
            value = plain[0].to(*plain[1:], **kwargs) if len(plain) > 1 or kwargs else plain[0]
            if target != source:
                self.crossings.append((source, target))
            return _marked(value.clone() if copied else value, target)
        if function in _ON_HOST and places and places[0] != CPU:
            raise TypeError(f"can't convert {places[0]} tensor to numpy")
        real = [_place_of(t) for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor) and t.ndim]
        if function not in _CROSS and len(set(real)) > 1:
            raise RuntimeError(f"{function.__name__}: tensors on {sorted(set(map(str, real)))}")
        place = torch.device(target) if target is not None else source if source != CPU else None
        if place is None:
            place = next((p for p in places if p != CPU), CPU)
        if target is not None and torch.device(target).type != self.kind:
            kwargs["device"] = target
        value = function(*tree_map(_plain, args), **tree_map(_plain, kwargs))
        return tree_map(lambda made: _marked(made, place), value)


_device_getter = Tensor.device.__get__


@contextmanager
def pretended(kind: str = "xpu") -> Iterator[_Pretence]:
    """Within, ``kind:0``, ``kind:1`` and so on are devices."""
    with _Pretence(kind) as mode:
        yield mode
