"""The codecs' speed against a plain copy, and native operators against what Inductor fuses.

    python benchmarks/codec.py [--device cpu|cuda] [--threads N] [--json PATH]

First table: bytes read plus bytes written over time, divided by that of a copy that allocates its
result as well (Tensor.clone), measured in turns in one process. Second table: a GELU's forward that
also encodes its input, and its backward that decodes it first; the decomposition, which Inductor
may fuse, against the native operator in the same compiled function (below 1: fusing wins).
The best of many rounds counts: what disturbs a run on a shared machine only ever adds time.
"""

import argparse
import ctypes
import json
import platform
import sys
import time
from collections.abc import Callable

import torch

from fxmem import ops
from fxmem.ops.decomposition import DECOMPOSITIONS

GROUP = 64
FUSED_BITS = (8, 4, 2)
Case = tuple[str, Callable[[], object], int]


def keep_freed_memory() -> None:
    """Let glibc keep what it frees: else page faults, not work, are measured."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def best_seconds(functions: list[Callable], device: str, rounds: int) -> list[float]:
    """The best time of each, called in turns; CPU time where one CPU thread does it all."""
    clock = time.perf_counter
    if device == "cpu" and torch.get_num_threads() == 1:
        clock = time.process_time
    best = [float("inf")] * len(functions)
    for _ in range(rounds):
        for i, function in enumerate(functions):
            if device == "cuda":
                torch.cuda.synchronize()
            start = clock()
            result = function()
            if device == "cuda":
                torch.cuda.synchronize()
            best[i] = min(best[i], clock() - start)
            del result
    return best


def codec_cases(x: torch.Tensor) -> list[Case]:
    shape = x.shape, x.stride()
    seed = torch.tensor([1], device=x.device)
    cases = [("copy", x.clone, 2 * x.nbytes)]
    for bits in range(8, 1, -1):
        kept = ops.encode(x, bits, GROUP)
        moved = x.nbytes + sum(t.nbytes for t in kept)
        cases += [
            (f"encode {bits}", lambda b=bits: ops.encode(x, b, GROUP), moved),
            (f"encode {bits} stochastic", lambda b=bits: ops.encode(x, b, GROUP, seed), moved),
            (
                f"decode {bits}",
                lambda b=bits, k=kept: ops.decode(*k, *shape, b, GROUP, x.dtype),
                moved,
            ),
        ]
    return cases


def mask_cases(x: torch.Tensor) -> list[Case]:
    packed = ops.pack(x)
    moved = x.nbytes + packed.nbytes
    return [
        ("copy", x.clone, 2 * x.nbytes),
        ("pack", lambda: ops.pack(x), moved),
        ("unpack", lambda: ops.unpack(packed, x.shape, x.stride(), 1, torch.bool), moved),
    ]


def against_copy(device: str, rounds: int) -> list[dict]:
    rows = []
    for mebibytes in (64, 1):
        count = 1 << 20
        inputs = [
            torch.randn(mebibytes * count // dtype.itemsize, device=device).to(dtype)
            for dtype in (torch.float32, torch.bfloat16)
        ]
        for x in (*inputs, torch.rand(mebibytes * count, device=device) > 0.5):
            cases = mask_cases(x) if x.dtype == torch.bool else codec_cases(x)
            # Small tensors are quick and noisy: more rounds.
            seconds = best_seconds([c[1] for c in cases], device, rounds * 64 // mebibytes // 8 + 8)
            rate = [moved / s for (_, _, moved), s in zip(cases, seconds, strict=True)]
            name = f"{mebibytes} MiB {str(x.dtype)[6:]}"
            for (case, _, _), r in zip(cases, rate, strict=True):
                ratio = r / rate[0]
                rows.append({"data": name, "case": case, "GB/s": r / 1e9, "of copy": ratio})
    return rows


def compiled(function: Callable, decomposed: bool) -> Callable:
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.decomposition import select_decomp_table

    table = {**select_decomp_table(), **(DECOMPOSITIONS if decomposed else {})}

    def backend(graph, inputs):
        return compile_fx(graph, inputs, decompositions=table)

    return torch.compile(function, backend=backend, fullgraph=True)


def fusion_functions(x: torch.Tensor, bits: int) -> dict[str, tuple[Callable, tuple]]:
    kept = ops.encode(x, bits, GROUP)
    size, stride, dtype = x.size(), x.stride(), x.dtype
    encode, decode = torch.ops.fxmem.encode, torch.ops.fxmem.decode
    gelu_backward = torch.ops.aten.gelu_backward

    def decoded(codes, scales):
        return decode(codes, scales, size, stride, bits, GROUP, dtype)

    return {
        "encode": (lambda v: encode(v, bits, GROUP), (x,)),
        "decode": (decoded, kept),
        "gelu + encode": (
            lambda v: (torch.nn.functional.gelu(v), *encode(v, bits, GROUP)),
            (x,),
        ),
        "decode + gelu backward": (lambda c, s, g: gelu_backward(g, decoded(c, s)), (*kept, x)),
    }


def against_fusion(device: str, rounds: int) -> list[dict]:
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2048, 4096, device=device).to(dtype)
        for bits in FUSED_BITS:
            for case, (function, args) in fusion_functions(x, bits).items():
                torch._dynamo.reset()
                pair = [compiled(function, decomposed) for decomposed in (False, True)]
                calls = [lambda f=f, a=args: f(*a) for f in pair]
                for call in calls:
                    call()
                native, fused = best_seconds(calls, device, rounds)
                label = f"{bits} bits {str(dtype)[6:]}"
                row = {"data": label, "case": case, "native ms": native * 1e3}
                rows.append({**row, "fused ms": fused * 1e3, "fused / native": fused / native})
    return rows


def print_table(rows: list[dict]) -> None:
    print(" | ".join(f"{key:>22}" for key in rows[0]))
    for row in rows:
        cells = [v if isinstance(v, str) else f"{v:.2f}" for v in row.values()]
        print(" | ".join(f"{cell:>22}" for cell in cells))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", help="write the figures here, too")
    parser.add_argument("--no-fusion", action="store_true", help="the first table only")
    asked = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(asked.threads)
    copy = against_copy(asked.device, asked.rounds)
    print_table(copy)
    fusion = [] if asked.no_fusion else against_fusion(asked.device, asked.rounds)
    if fusion:
        print_table(fusion)
    if asked.json:
        where = {"machine": platform.machine(), "threads": asked.threads}
        native = asked.device in ops.NATIVE
        head = {"device": asked.device, "torch": torch.__version__, "native": native, **where}
        with open(asked.json, "w") as file:
            json.dump({**head, "against copy": copy, "against fusion": fusion}, file, indent=1)


if __name__ == "__main__":
    main()
