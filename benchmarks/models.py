"""What a training step of well-known models keeps, needs at its peak and takes, each way.

    python benchmarks/models.py [--models llama vit ...] [--dtype bf16] [--json PATH]

Classes of transformers with random weights, four layers of width 256 (ResNet-18 and ConvNeXt with
their own), and a DenseNet and a U-Net (benchmarks/concatenating.py); 4 x 256 tokens, or 8 images of
96 x 96 (160 x 160 for the ViT). Models and inputs are as anyone has them: nothing is told to any
way but its own name. Kept and peak MiB over what was allocated before the step; time is the ratio
to Inductor's, all ways in turns.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from concatenating import DenseNet, UNet
from stack_case import DTYPES
from torch import nn

from fxmem.demo.ways import WAYS
from fxmem.measure import Table, Variant, measure
from fxmem.measure.text import MiB, aligned

WORDS, LENGTH, WIDTH = 4096, 256, 256
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4}
MLP = {**SIZES, "intermediate_size": 4 * WIDTH}
# Else the first forward chooses it, and every way is compiled twice.
CLASSES = {"num_labels": 10, "problem_type": "single_label_classification"}
DECODER = {**SIZES, "intermediate_size": 3 * WIDTH, "num_key_value_heads": 2, "vocab_size": WORDS}


def tokens(batch: int) -> dict[str, torch.Tensor]:
    """Ids that are their own labels."""
    ids = torch.randint(WORDS, (batch, LENGTH))
    return {"input_ids": ids, "labels": ids}


def images(size: int) -> Callable[[int], dict[str, torch.Tensor]]:
    """Pictures of a size, of ten classes."""
    return lambda batch: {
        "pixel_values": torch.randn(2 * batch, 3, size, size),
        "labels": torch.arange(2 * batch) % 10,
    }


# By name: classes of the model and its configuration, options, and the batch.
MODELS: dict[str, tuple[str, str, dict, Callable[[int], dict[str, torch.Tensor]]]] = {
    "gpt2": (
        *("GPT2LMHeadModel", "GPT2Config"),
        {"n_embd": WIDTH, "n_layer": 4, "n_head": 4, "vocab_size": WORDS, "use_cache": False}
        | {"bos_token_id": 0, "eos_token_id": 0, "loss_type": "ForCausalLM"},
        tokens,
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER | {"use_cache": False}, tokens),
    "mixtral": (
        *("MixtralForCausalLM", "MixtralConfig"),
        DECODER | {"use_cache": False, "num_local_experts": 4},
        tokens,
    ),
    "bert": ("BertForMaskedLM", "BertConfig", MLP | {"vocab_size": WORDS}, tokens),
    "t5": (
        *("T5ForConditionalGeneration", "T5Config"),
        {"d_model": WIDTH, "d_kv": 64, "d_ff": 4 * WIDTH, "num_layers": 2, "num_heads": 4}
        | {"vocab_size": WORDS, "use_cache": False, "decoder_start_token_id": 0, "pad_token_id": 0},
        tokens,
    ),
    "vit": (
        *("ViTForImageClassification", "ViTConfig"),
        MLP | CLASSES | {"image_size": 160, "patch_size": 16},
        images(160),
    ),
    "convnext": (
        *("ConvNextForImageClassification", "ConvNextConfig"),
        CLASSES | {"depths": [2, 2, 4, 2], "hidden_sizes": [48, 96, 192, 384]},
        images(96),
    ),
    "resnet18": (
        *("ResNetForImageClassification", "ResNetConfig"),
        CLASSES
        | {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
        | {"layer_type": "basic", "embedding_size": 64},
        images(96),
    ),
}


OWN = {"densenet": DenseNet, "unet": UNet}


def made(name: str) -> tuple[nn.Module, Callable[[int], dict[str, torch.Tensor]]]:
    """Return a model and what makes its batches."""
    if name in OWN:
        return OWN[name](), images(96)
    model_class, config_class, options, batch = MODELS[name]
    config = getattr(transformers, config_class)(**options)
    return getattr(transformers, model_class)(config), batch


def measured(name: str, args: argparse.Namespace) -> Table:
    """Measure one model each way."""
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # rather than measure eager
    torch.manual_seed(0)
    model, batch = made(name)
    model.train().to(args.device, DTYPES[args.dtype])
    inputs = {key: value.to(args.device) for key, value in batch(args.batch).items()}
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(DTYPES[args.dtype])
    return measure({way: variant(model, way, inputs) for way in args.ways}, args.rounds)


def variant(model: nn.Module, way: str, inputs: dict[str, torch.Tensor]) -> Variant:
    """Return a copy of a model that runs one way."""
    model = copy.deepcopy(model)
    run = WAYS[way].compile(model)
    return Variant(model, lambda: run(**inputs).loss)


def table(found: dict[str, Table]) -> str:
    """One line a model: kept / peak MiB and time of each way."""
    ways = [row.name for row in next(iter(found.values())).rows]
    lines = [("kept / peak MiB, time", *ways)]
    for name, measurements in found.items():
        cells = (
            f"{row.kept / MiB:.1f} / {row.peak / MiB:.1f}, {row.times.ratio:.2f}"
            for row in measurements.rows
        )
        lines.append((name, *cells))
    return aligned(lines)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *OWN], default=[*MODELS, *OWN])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=4, help="texts; images are twice as many")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found: dict[str, Table] = {}
    for name in args.models:
        found[name] = measured(name, args)
        print(name, found[name], sep="\n", end="\n\n", flush=True)
    print(table(found))
    if args.json:
        figures = {name: measurements.to_dict() for name, measurements in found.items()}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
