"""What lossy presets cost where attention is sharp: the gradient's error by the logits' spread.

    python benchmarks/sharpness.py [--spread 1 2 4 8] [--attention 3 4 5 8]

One causal attention of 4 heads of width 64 over 2 x 256 tokens with its four projections; the error
is that of all their gradients together, against everything kept.
"""

from __future__ import annotations

import argparse

import torch
from stack_case import error
from torch.nn import functional

from fxmem.measure.text import aligned

BATCH, HEADS, TOKENS, WIDTH = 2, 4, 256, 64


def gradients(spread: float, options: dict | None) -> list[torch.Tensor]:
    """Return the gradients of the projections; the logits have the standard deviation `spread`."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    d = HEADS * WIDTH
    ws = [torch.randn(d, d) / d**0.5 for _ in range(4)]
    ws = [(w * scale).requires_grad_() for w, scale in zip(ws, (spread, 1, 1, 1), strict=True)]
    x, weight = torch.randn(BATCH, TOKENS, d), torch.randn(BATCH, TOKENS, d)

    def attend(x: torch.Tensor) -> torch.Tensor:
        q, k, v = ((x @ w).view(BATCH, TOKENS, HEADS, WIDTH).transpose(1, 2) for w in ws[:3])
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).flatten(2) @ ws[3]

    run = attend if options is None else torch.compile(attend, backend="fxmem", options=options)
    return list(torch.autograd.grad((run(x) * weight).sum(), ws))


def main() -> None:
    """Print a row for each preset and each width of queries, keys and values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spread", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--attention", type=int, nargs="+", default=[3, 4, 5, 8])
    args = parser.parse_args()
    true = {spread: gradients(spread, None) for spread in args.spread}
    lines = [("", *(f"logits ± {spread:g}" for spread in args.spread))]
    for preset in ("balanced", "compact"):
        for bits in (None, *args.attention):
            rules = {} if bits is None else {"encode": {"attention": bits}}
            options = {"preset": preset, "rules": rules, "inner": "aot_eager"}
            found = (error(gradients(s, options), true[s]) for s in args.spread)
            name = preset if bits is None else f"{preset}, attention {bits} bits"
            lines.append((name, *(f"{100 * e:.1f} %" for e in found)))
    print(aligned(lines))


if __name__ == "__main__":
    main()
