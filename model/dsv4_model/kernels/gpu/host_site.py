"""A feed-forward site that lies in main memory beside a layer on a GPU.

What crosses is a token's activations, not the weights. The GPU waits meanwhile, and a step that has such a
site can't be captured as a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dsv4_model.layer_weights import LayerWeights
from dsv4_model.passes import HostSites
from dsv4_model.torch_feed_forward import TorchFeedForward

__all__ = ["HostSite"]


@dataclass(frozen=True, slots=True)
class HostSite:
    """Layer ``number``; ``host`` computes it, PyTorch where there is none."""

    number: int
    layer: LayerWeights
    torch: TorchFeedForward
    host: HostSites | None

    def __call__(self, x: Tensor, ids: Tensor, *, counted: bool) -> tuple[Tensor, Tensor | None]:
        """As `FeedForward`, always exact; which experts were chosen is said where they are counted."""
        near, tokens = x.cpu(), ids.cpu()
        if self.host is None:
            y = self.torch(near, tokens, self.layer)
        else:
            y = self.host.feed_forward(self.number, near, tokens)
        chosen = self.torch.route(near, tokens, self.layer)[1] if counted else None
        return y.to(x.device), chosen
