"""Turn a training state into the shipped checkpoint.

    python -m dsv4_model.nano.export --train RUNS/train [--out FOLDER] [--dtype fp8|bf16]

The official format: FP8 blocks and FP4 experts with ue8m0 scales; bf16 tables and norms; the rest fp32.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from dsv4_model.checkpoint import load_model, save_checkpoint
from dsv4_model.nano import WEIGHTS
from dsv4_model.nano.shape import CONFIG
from dsv4_model.transformer import DeepseekV4


def export(state: Path, out: Path, *, quantize: bool) -> int:
    """Write the checkpoint, with the tokenizer in `out` or else the shipped one; returns its bytes."""
    saved = torch.load(state, weights_only=True)
    model = DeepseekV4(replace(CONFIG, expert_dtype=None), with_mtp=False)
    model.load_state_dict(saved["model"])
    save_checkpoint(model, out, quantize=quantize, dtype=torch.bfloat16)
    if not (out / "tokenizer.json").exists():
        shutil.copy(WEIGHTS / "tokenizer.json", out)
    load_model(out)
    return sum(f.stat().st_size for f in out.iterdir())


def main() -> None:
    """Command line of the export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="folder with state.pt")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--dtype", choices=["fp8", "bf16"], default="fp8")
    options = parser.parse_args()
    size = export(options.train / "state.pt", options.out, quantize=options.dtype == "fp8")
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
