"""What activations cost in eager mode, without a compiler: BERT and Mistral from transformers.

    python benchmarks/eager.py [--model bert mistral] [--device cuda] [--json PATH]

Random weights, no dropout; every activation module of the model is replaced by fxmem's, or its
graph is what `fxmem.transform` returns: of BERT as Dynamo traces it, of Mistral's feed-forward
blocks. Kept bytes are compared with the plain model's, and the gradient with the plain model's in
fp64.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import torch
from stack_case import error, gradient
from torch import fx, nn
from transformers import BertConfig, BertModel, MistralConfig, MistralModel

import fxmem
import fxmem.nn
from fxmem.measure import Variant, measure
from fxmem.measure.text import MiB, aligned

PLAIN = "eager"
HEAD = ("", "kept MiB", "saved", "time", "±", "gradient error")
# What is kept instead of an activation's input.
WAYS = {
    PLAIN: None,
    "from the output": {"keep": "output"},
    "3 bits": {"bits": 3},
    "1 bit": {"bits": 1},
    "transform": "transform",
}


def bert() -> nn.Module:
    """BERT's block at a third of its width: GELU between two linear layers."""
    return BertModel(
        BertConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_attention_heads=4,
            num_hidden_layers=4,
            vocab_size=1000,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )


def mistral() -> nn.Module:
    """Mistral's block at a sixteenth of its width: SiLU times a second linear layer."""
    return MistralModel(
        MistralConfig(
            hidden_size=256,
            intermediate_size=896,
            num_attention_heads=8,
            num_key_value_heads=2,
            num_hidden_layers=4,
            vocab_size=1000,
            use_cache=False,
        )
    )


MODELS = {"bert": bert, "mistral": mistral}


def eagerly(gm: fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
    """Run what Dynamo has traced as it is, but transformed."""
    return fxmem.transform(gm).forward


def transformed(model: nn.Module) -> nn.Module:
    """Return a model that runs what `fxmem.transform` makes of its graphs, without a compiler.

    Traced whole, Mistral repeats keys and values in memory, which eager does not.
    """
    if isinstance(model, BertModel):
        return torch.compile(model, backend=eagerly, fullgraph=True)
    for layer in model.layers:
        layer.mlp = fxmem.transform(fx.symbolic_trace(layer.mlp))
    return model


def variant(model: nn.Module, options: dict | str | None, tokens: torch.Tensor) -> Variant:
    """Return a model's copy with fxmem's activations, and its call."""
    model = copy.deepcopy(model)
    if options == "transform":
        model = transformed(model)
    elif options is not None:
        fxmem.convert(model, {fxmem.nn.is_activation: options})
    # Not the same for all features: their sum is what a LayerNorm leaves constant.
    weight = torch.randn(*tokens.shape, model.config.hidden_size, generator=torch.Generator())
    weight = weight.to(tokens.device)
    return Variant(model, lambda: (model(tokens).last_hidden_state * weight).sum())


def measured(name: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return bytes, time and error of every way to run a model."""
    torch.manual_seed(0)
    model = MODELS[name]().to(args.device)
    tokens = torch.randint(1000, (args.batch, args.tokens), device=args.device)
    true = gradient(variant(model.double(), None, tokens))
    model.float()
    variants = {way: variant(model, options, tokens) for way, options in WAYS.items()}
    errors = {way: error(gradient(v), true) for way, v in variants.items()}
    rows = measure(variants, args.rounds).rows
    plain = rows[0].kept
    return {
        row.name: {
            "kept": row.kept,
            "saved": 1 - row.kept / plain,
            "time": row.times.ratio,
            "spread": row.times.spread / 2,
            "error": errors[row.name],
        }
        for row in rows
    }


def table(found: dict[str, dict[str, float]]) -> str:
    """Return the rows as text."""
    body = [
        (
            name,
            f"{row['kept'] / MiB:.1f}",
            f"{100 * row['saved']:.1f} %",
            f"{row['time']:.3f}",
            f"{row['spread']:.3f}",
            f"{row['error']:.1e}",
        )
        for name, row in found.items()
    ]
    return aligned([HEAD, *body])


def main() -> None:
    """Measure what the command line asks for."""
    args = parse()
    torch.set_num_threads(args.threads)
    results = {}
    for name in args.model:
        results[name] = measured(name, args)
        print(f"\n{name}, {args.batch} x {args.tokens} tokens, fp32\n{table(results[name])}")
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, **results}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
