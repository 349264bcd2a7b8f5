"""Importing this settles which of MKL's kernels compute cosines, roots and the like in this process.

MKL chooses at the first call of each function. Where that call comes from several threads at once, as with
the first large tensor, a thread may get a kernel of 11 bits for it (PyTorch's issue 188792): a rotary table
is then wrong by 1e-4 for as long as the process lives, in about one process of ten.
"""

from __future__ import annotations

from typing import Final

import torch

_FUNCTIONS: Final = (torch.cos, torch.sin, torch.sqrt, torch.exp, torch.log)

# A tensor of one element is computed by the calling thread alone.
for _function in _FUNCTIONS:
    _function(torch.ones(1, dtype=torch.float32, device="cpu"))
