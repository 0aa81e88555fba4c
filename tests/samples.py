"""The sample calls of each operator: opcheck and every comparison are generated from them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from fxmem import ops

SIZES = (0, 1, 7, 31, 32, 33, 63, 64, 65, 1000, 4097)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BITS = (8, 7, 6, 5, 4, 3, 2)
GROUPS = (32, 64, 128, 256)
SEEDS = (None, -0x123456789ABCDEF)

# Each takes a random [12, 10, 6, 4] tensor and returns one of another layout.
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, 2),
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "gaps": lambda x: x[:, ::2],
    "offset": lambda x: x.flatten()[3:],
    "expanded": lambda x: x[:, :1].expand(-1, 10, -1, -1),
    "single": lambda x: x[:1].as_strided((1, 10, 6, 4), (7, 24, 4, 1)),
}


@dataclass(frozen=True)
class Sample:
    """A call of one operator: torch.ops.fxmem.<op>(*args)."""

    name: str
    op: str
    args: tuple

    def __call__(self, function=None):
        return (function or getattr(torch.ops.fxmem, self.op).default)(*self.args)


def seed_tensor(seed: int | None, device: str) -> torch.Tensor | None:
    return None if seed is None else torch.tensor([seed], device=device)


def _codec(name: str, x: torch.Tensor, bits: int, group: int, seed: int | None) -> Iterator[Sample]:
    label = f"{name}-{str(x.dtype)[6:]}-{bits}bit-{group}{'' if seed is None else '-stochastic'}"
    args = (x, bits, group, seed_tensor(seed, x.device.type))
    yield Sample(f"encode-{label}", "encode", args)
    codes, scales = torch.ops.fxmem.encode(*args)
    layout = (x.shape, ops.memory_stride(x))
    yield Sample(f"decode-{label}", "decode", (codes, scales, *layout, bits, group, x.dtype))


def _mask(name: str, x: torch.Tensor, bits: int) -> Iterator[Sample]:
    label = f"{name}-{str(x.dtype)[6:]}-{bits}bit"
    yield Sample(f"pack-{label}", "pack", (x, bits))
    layout = (x.shape, ops.memory_stride(x))
    packed = torch.ops.fxmem.pack(x, bits)
    yield Sample(f"unpack-{label}", "unpack", (packed, *layout, bits, x.dtype))


def sweep(device: str = "cpu") -> Iterator[Sample]:
    """Every size with every setting, and every layout with a few."""
    draw = torch.Generator().manual_seed(7)
    for n in SIZES:
        for dtype in DTYPES:
            x = torch.randn(n, generator=draw).to(device, dtype)
            for bits in BITS:
                for group in GROUPS:
                    for seed in SEEDS:
                        yield from _codec(str(n), x, bits, group, seed)
        for bits in range(1, 9):
            values = torch.randint(2**bits, (n,), dtype=torch.uint8, generator=draw).to(device)
            yield from _mask(str(n), values, bits)
        yield from _mask(str(n), torch.rand(n, generator=draw).to(device) > 0.5, 1)
    yield from layouts(device)


def layouts(device: str = "cpu") -> Iterator[Sample]:
    """Every layout; few enough for opcheck."""
    base = torch.randn(12, 10, 6, 4, generator=torch.Generator().manual_seed(8)).to(device)
    for name, view in LAYOUTS.items():
        yield from _codec(name, view(base), 4, 64, None)
        yield from _codec(name, view(base.bfloat16()), 8, 32, SEEDS[1])
        yield from _mask(name, view(base > 0), 1)
