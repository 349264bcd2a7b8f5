"""Turn a training state into the shipped checkpoint.

    python -m dsv4_model.nano.export --train RUNS/train [--out FOLDER] [--dtype fp8|bf16]

The official format: FP8 blocks and FP4 experts with ue8m0 scales; bf16 tables and norms; the rest fp32. A
state of `train_mtp` adds the MTP block to the shipped checkpoint; its other tensors stay the same bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsv4_model.checkpoint import load_model, save_checkpoint
from dsv4_model.nano import WEIGHTS
from dsv4_model.nano.shape import CONFIG
from dsv4_model.transformer import DeepseekV4

FILE = "model.safetensors"
DRAFT = "mtp."


def export(state: Path, out: Path, *, quantize: bool, main: Path = WEIGHTS) -> int:
    """Write the checkpoint, with the tokenizer in `out` or else the shipped one; returns its bytes.

    `main` is the checkpoint that a state of `train_mtp` began from. Raises `ValueError` if it isn't.
    """
    weights: dict[str, Tensor] = torch.load(state, weights_only=True)["model"]
    drafts = any(name.startswith(DRAFT) for name in weights)
    config = replace(CONFIG, expert_dtype=None)
    stored: dict[str, Tensor] = {}
    if drafts:
        if any(
            not torch.equal(value, weights[name]) for name, value in load_model(main).state_dict().items()
        ):
            raise ValueError(f"{state} was trained from another checkpoint than {main}")
        stored = {name: v for name, v in load_file(main / FILE).items() if not name.startswith(DRAFT)}
    else:
        ratios = config.compress_ratios[: config.num_hidden_layers]
        config = replace(config, num_nextn_predict_layers=0, compress_ratios=ratios)
    model = DeepseekV4(config)
    model.load_state_dict(weights)
    save_checkpoint(model, out, quantize=quantize, dtype=torch.bfloat16)
    if stored and quantize:
        _keep(stored, out)
    if not (out / "tokenizer.json").exists():
        shutil.copy(WEIGHTS / "tokenizer.json", out)
    _say_that_activations_were_not_rounded(out)
    load_model(out, with_mtp=drafts)
    return sum(f.stat().st_size for f in out.iterdir())


def _keep(stored: dict[str, Tensor], out: Path) -> None:
    """Put the main model's tensors back: rounded again they have the same values, but maybe other bytes."""
    file, part = out / FILE, out / f"{FILE}.part"
    save_file({**load_file(file), **stored}, part, metadata={"format": "pt"})
    part.chmod(file.stat().st_mode)
    part.replace(file)


def _say_that_activations_were_not_rounded(folder: Path) -> None:
    """The writer copies the released configuration; without a scheme an engine doesn't round activations."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("quantization_config", {}).pop("activation_scheme", None) is not None:
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line of the export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="folder with state.pt")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--dtype", choices=["fp8", "bf16"], default="fp8")
    parser.add_argument("--main", type=Path, default=WEIGHTS, help="what a run of train_mtp began from")
    options = parser.parse_args()
    quantize = options.dtype == "fp8"
    size = export(options.train / "state.pt", options.out, quantize=quantize, main=options.main)
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
