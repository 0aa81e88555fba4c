"""What linear layers cost that keep a sketch of their input: FewBit's table, on RoBERTa's shapes.

    python benchmarks/linear.py [--layers 2] [--compiled] [--dtype bfloat16] [--json PATH]

Random weights, no dropout. Every torch.nn.Linear is replaced by fxmem's (20 % of the rows, each
kind of matrix), every activation by one that keeps 3 bits, or both; eager, and with --compiled the
same asked of backend="fxmem", beside Inductor. There a sketch is taken where it makes the plan
smaller: "exact" recomputes what linear layers read, and 3-bit codes of GELU's derivative need its
output sketched. FewBit's own figures, of RoBERTa-base on a GPU with 128 x 128 tokens, GiB at the
peak: 11.30 / 9.75 / 9.20 / 7.60.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import nn
from transformers import RobertaConfig, RobertaModel

import fxmem
import fxmem.nn
from fxmem.measure import Variant, measure
from fxmem.ops import KINDS

GELU = {fxmem.nn.is_activation: {"bits": 3}}


def sketch(kind: str, ratio: float) -> dict:
    """Rules for `fxmem.convert`."""
    return {nn.Linear: {"sketch": {"proj_dim_ratio": ratio, "matmul": kind}}}


def compiled(preset: str, ratio: float) -> dict[str, dict]:
    """The same four under backend="fxmem"; "compact" takes few-bit codes by itself."""
    codes = {"few_bit": {"bits": 3}}
    rules = {"": {}, ", 3-bit GELU": codes, ", sketch": {"sketch": ratio}}
    rules[", sketch, 3-bit GELU"] = rules[", sketch"] | codes
    options = {
        f"{preset}{name}": {"preset": preset, "rules": rule}
        for name, rule in rules.items()
        if preset != "compact" or "3-bit" not in name
    }
    return {name: {"backend": "fxmem", "options": given} for name, given in options.items()}


def ways(args: argparse.Namespace) -> dict[str, dict]:
    """Every way to run the model: rules of convert, or a backend and its options."""
    found: dict[str, dict] = {"eager": {}, "3-bit GELU": GELU}
    found |= {f"{kind} {args.ratio:.0%}": sketch(kind, args.ratio) for kind in args.kinds}
    found |= {f"{kind}, 3-bit GELU": sketch(kind, args.ratio) | GELU for kind in args.kinds[:1]}
    if args.compiled is not None:
        found["Inductor"] = {"backend": "inductor"}
        for preset in args.compiled or ["exact"]:
            found |= compiled(preset, args.ratio)
    return found


def roberta(args: argparse.Namespace) -> nn.Module:
    """RoBERTa-base's blocks, as many as are asked for."""
    config = RobertaConfig(
        num_hidden_layers=args.layers,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        vocab_size=1000,
    )
    return RobertaModel(config, add_pooling_layer=False).to(args.device, args.dtype)


def variant(model: nn.Module, way: dict, tokens: torch.Tensor) -> Variant:
    """Return a model's copy that runs one way, and its call."""
    model = copy.deepcopy(model)
    run = model
    if "backend" in way:
        run = torch.compile(model, fullgraph=True, **way)
    elif way:
        fxmem.convert(model, way)
    return Variant(model, lambda: run(tokens).last_hidden_state.float().square().mean())


def main() -> None:
    """Measure what the command line asks for."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = roberta(args)
    tokens = torch.randint(1000, (args.batch, args.tokens), device=args.device)
    variants = {name: variant(model, way, tokens) for name, way in ways(args).items()}
    found = measure(variants, args.rounds)
    print(f"{args.layers} layers, {args.batch} x {args.tokens} tokens, {args.dtype}\n{found}")
    if args.json:
        text = json.dumps({"torch": torch.__version__, **found.to_dict()}, indent=1)
        args.json.write_text(text + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", type=lambda name: getattr(torch, name), default=torch.float32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    presets = ("exact", "balanced", "compact")
    parser.add_argument("--compiled", nargs="*", choices=presets, help="and by these presets")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
