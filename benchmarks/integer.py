"""Integer layers' speed against float32's and bfloat16's, in turns in one process.

    python benchmarks/integer.py [--device cpu|cuda] [--threads N] [--rounds N] [--json PATH]

First table: forward and backward of a square linear layer and of a convolution, all quantization
included; the bare products of the same sizes beside it. Second: the forward of binary layers,
packing included, and the bare product of packed signs. Ratios above 1 are faster than float32.
The best of many rounds counts: what disturbs a run on a shared machine only ever adds time.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable

import torch
import torch.nn.functional as F
from codec import best_seconds, keep_freed_memory, print_table

from fxmem import integer, ops
from fxmem.integer.product import int_mm
from fxmem.ops.integer.xnor import pack_rows, xnor_mm

METHODS = ("int8", "int8:stochastic", "wageubn8", "dorefa:8,8,32", "binarynet", "xnor")
Case = Callable[[], object]


def step(layer: Callable, x: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor) -> None:
    """A forward and both backward products."""
    x.grad = weight.grad = None
    layer(x, weight).backward(grad)


def layer_cases(plain: Callable, ours: Callable, x, weight) -> dict[str, Case]:
    """float32, bfloat16 and every method of one layer."""
    grad = torch.randn_like(plain(x, weight))
    given = [it.requires_grad_() for it in (x, weight)]
    half = [it.detach().bfloat16().requires_grad_() for it in (x, weight)]
    cases = {
        "float32": lambda: step(plain, *given, grad),
        "bfloat16": lambda: step(plain, *half, grad.bfloat16()),
    }
    for method in METHODS:
        layer = lambda a, b, m=method: ours(a, b, method=m)  # noqa: E731  a name for each
        cases[method] = lambda f=layer: step(f, *given, grad)
    return cases


def torchao_case(x: torch.Tensor, weight: torch.Tensor) -> dict[str, Case]:
    """torchao's int8 training of the same linear layer, where torchao is installed."""
    try:
        from torchao import quantize_
        from torchao.prototype.quantized_training import int8_mixed_precision_training
    except ImportError:
        return {}
    layer = torch.nn.Linear(*reversed(weight.shape), bias=False, device=weight.device)
    quantize_(torch.nn.Sequential(layer), int8_mixed_precision_training())
    given, grad = x.detach().clone().requires_grad_(), torch.randn(len(x), len(weight)).to(x)
    return {"torchao int8, eager": lambda: step(lambda x, w: layer(x), given, layer.weight, grad)}


def bare_cases(size: int, device: str) -> dict[str, Case]:
    """The three products without quantization."""
    codes = torch.randint(-127, 128, (size, size), dtype=torch.int8, device=device)
    values = torch.randn(size, size, device=device)
    halves = values.bfloat16()
    return {
        "float32": lambda: [values @ values for _ in range(3)],
        "bfloat16": lambda: [halves @ halves for _ in range(3)],
        "int8": lambda: [int_mm(codes, codes) for _ in range(3)],
    }


def binary_cases(size: int, device: str) -> dict[str, Case]:
    """Forward products of a square layer."""
    x, weight = (torch.randn(size, size, device=device) for _ in range(2))
    halves = x.bfloat16(), weight.bfloat16()
    rows = [pack_rows(it >= 0) for it in (x, weight)]
    return {
        "float32": lambda: F.linear(x, weight),
        "bfloat16": lambda: F.linear(*halves),
        "packed signs": lambda: xnor_mm(*rows, size),
        "signs, packed": lambda: xnor_mm(pack_rows(x >= 0), pack_rows(weight >= 0), size),
        "binarynet": lambda: integer.linear(x, weight, None, "binarynet"),
        "xnor": lambda: integer.linear(x, weight, None, "xnor"),
    }


def rows_of(name: str, cases: dict[str, Case], device: str, rounds: int) -> list[dict]:
    """Milliseconds of each and the ratio to the first's."""
    seconds = best_seconds(list(cases.values()), device, rounds)
    return [
        {"data": name, "case": case, "ms": s * 1e3, "x float32": seconds[0] / s}
        for case, s in zip(cases, seconds, strict=True)
    ]


def measured(size: int, signs: int, device: str, rounds: int) -> list[dict]:
    """Both tables in one."""
    square = [torch.randn(size, size, device=device) for _ in range(2)]
    image, kernel = (torch.randn(s, device=device) for s in ((8, 64, 32, 32), (64, 64, 3, 3)))
    convolutions = (
        lambda x, w: F.conv2d(x, w, None, 1, 1),
        lambda x, w, method: integer.conv2d(x, w, None, 1, 1, method=method),
    )
    linears = F.linear, lambda x, w, method: integer.linear(x, w, None, method)
    rows = rows_of(f"products {size}", bare_cases(size, device), device, rounds)
    layers = {**layer_cases(*linears, *square), **torchao_case(*square)}
    rows += rows_of(f"linear {size}", layers, device, rounds)
    rows += rows_of("conv 64x32x32", layer_cases(*convolutions, image, kernel), device, rounds)
    fewer = max(rounds // 4, 2)
    return rows + rows_of(f"forward {signs}", binary_cases(signs, device), device, fewer)


def main() -> None:
    """Print the tables; write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--signs", type=int, default=4096)
    parser.add_argument("--json", help="write the figures here, too")
    asked = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(asked.threads)
    rows = measured(asked.size, asked.signs, asked.device, asked.rounds)
    print_table(rows)
    if asked.json:
        where = {"machine": platform.machine(), "threads": asked.threads}
        native = asked.device in ops.NATIVE
        head = {"device": asked.device, "torch": torch.__version__, "native": native, **where}
        with open(asked.json, "w") as file:
            json.dump({**head, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
