"""The sample calls of the activation operators, and what their results are compared with."""

import math
from collections.abc import Iterator

import torch
from activations.exact import CASES
from samples import LAYOUTS, SEEDS, Sample, seed_tensor

from fxmem import ops
from fxmem.activations import calculus, inverse, store
from fxmem.activations.table import TABLE, Activation
from fxmem.ops.activations.functions import evaluate

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SIZES = (0, 1, 7, 63, 64, 65, 1023, 1025, 4097)
SMOOTH = [row.name for row, _ in CASES if not calculus.step_slopes(row)]
STEPWISE = [(row.name, values) for row, values in CASES if calculus.step_slopes(row)]


def invertible(name: str, parameters: tuple[float, ...]) -> bool:
    """Whether the slope follows from the output."""
    row = TABLE[name]
    condition = row.invertible.subs(dict(zip(row.symbols, parameters, strict=True)))
    return inverse.branches(row) > 0 and bool(condition)


INVERTIBLE = [(row.name, values) for row, values in CASES if invertible(row.name, values)]


def patterns(dtype: torch.dtype) -> torch.Tensor:
    """All there is of a 16-bit dtype, NaN and infinities too; of the others an even choice."""
    if dtype.itemsize == 2:
        return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    wide = torch.arange(-(2**31), 2**31, 2**16 + 1).to(torch.int32).view(torch.float32)
    ends = [torch.finfo(dtype).max, torch.finfo(dtype).tiny, math.inf, math.nan]
    ends = torch.tensor([*ends, *(-end for end in ends)], dtype=dtype)
    steps = (torch.linspace(-20, 20, 40_001), torch.linspace(-1, 1, 20_001))
    return torch.cat([wide.to(dtype), *(s.to(dtype) for s in steps), ends])


def numbers(n: int, dtype: torch.dtype, draw: torch.Generator) -> torch.Tensor:
    """Normal numbers, among which lie zeros, subnormal and infinite ones and NaN."""
    x = torch.randn(n, generator=draw, dtype=torch.float64).mul(3).to(dtype)
    info = torch.finfo(dtype)
    odd = [0.0, info.smallest_normal * info.eps, info.tiny, info.max, math.inf, math.nan]
    odd = torch.tensor([*odd, *(-v for v in odd)], dtype=dtype)[:: 1 if n > 99 else 5]
    x[: len(odd)] = odd[:n]
    return x


def coding(name: str, parameters=None, bits: int = 3, drawn: bool = False) -> tuple:
    """Function, parameters, borders, levels, bits and even, as fxmem::few_bit takes them."""
    row = TABLE[name]
    values = list(row.defaults if parameters is None else parameters)
    if levels := calculus.step_levels(row, values):
        return name, values, [], list(levels), (len(levels) - 1).bit_length(), False
    table = store.levels(row, bits, unbiased=drawn)
    return name, values, table.borders.tolist(), table.levels.tolist(), bits, table.even


def few_bit(label: str, x: torch.Tensor, code: tuple, seed: int | None = None) -> Iterator[Sample]:
    """A forward, and the backward of what it keeps."""
    label = f"{label}-{code[0]}{code[1]}-{x.dtype}-{code[4]}bit-{seed}"
    yield (forward := Sample(label, "few_bit", (x, *code, seed_tensor(seed, x.device.type))))
    _, _, _, levels, bits, _ = code
    codes, stride = forward()[1], ops.memory_stride(x)
    grad = torch.randn_like(x)
    yield Sample(label, "few_bit_backward", (grad, codes, levels, bits, stride))


def interval(label: str, x: torch.Tensor, code: tuple) -> Iterator[Sample]:
    """Codes alone, and their levels."""
    _, _, borders, levels, bits, even = code
    label = f"{label}-{code[0]}-{x.dtype}-{bits}bit"
    yield (codes := Sample(label, "classify", (x, borders, bits, even)))
    layout = (x.size(), ops.memory_stride(x), x.dtype)
    yield Sample(label, "lookup", (codes(), levels, bits, *layout))


def output(label: str, x: torch.Tensor, name: str, values) -> Iterator[Sample]:
    """A forward that keeps the output and the branch, and its backward."""
    label = f"{label}-{name}{values}-{x.dtype}"
    yield (forward := Sample(label, "from_output", (x, name, list(values))))
    yield Sample(
        label, "from_output_backward", (torch.randn_like(x), *forward(), name, list(values))
    )


def gated(label: str, gate: torch.Tensor, name: str, values) -> Iterator[Sample]:
    """A gated pair and its backward; the operands differ in their strides."""
    up, grad = (torch.randn(gate.shape).to(gate) for _ in range(2))
    label = f"{label}-{name}{values}-{gate.dtype}"
    yield Sample(label, "gated", (gate, up, name, list(values)))
    yield Sample(label, "gated_backward", (grad, gate, up, name, list(values)))


def functions(device: str) -> Iterator[Sample]:
    """Every function with every dtype; the size has whole tiles, a ragged one and odd numbers."""
    draw = torch.Generator().manual_seed(9)
    for dtype in DTYPES:
        x = numbers(3077, dtype, draw).to(device)
        for row, values in CASES:
            yield from few_bit("all", x, coding(row.name, values))
            yield from gated("all", x.clamp(-90, 8), row.name, values)
            if invertible(row.name, values):
                yield from output("all", x, row.name, values)


def widths(device: str) -> Iterator[Sample]:
    """Every width and size, with and without parity, also at the borders themselves."""
    draw = torch.Generator().manual_seed(10)
    for dtype in DTYPES:
        for bits in range(1, 9):
            for name in ("gelu", "tanh"):
                code = coding(name, bits=bits)
                at = torch.tensor(code[2], dtype=torch.float64).to(dtype)
                for n in SIZES:
                    x = numbers(n, dtype, draw)
                    x[-len(at) :] = at[: min(n, len(at))]
                    yield from few_bit(str(n), x.to(device), code)
                    yield from interval(str(n), x.to(device), code)
                drawn = coding(name, bits=bits, drawn=True)
                yield from few_bit("drawn", numbers(3077, dtype, draw).to(device), drawn, SEEDS[1])


def layouts(device: str, names=(*LAYOUTS, "0-dim")) -> Iterator[Sample]:
    """Every layout, and no dimension."""
    base = torch.randn(12, 10, 6, 4, generator=torch.Generator().manual_seed(8)).to(device)
    views = {name: view(base) for name, view in LAYOUTS.items()} | {"0-dim": base[0, 0, 0, 0]}
    for name, x in ((name, views[name]) for name in names):
        yield from few_bit(name, x, coding("silu"))
        yield from few_bit(name, x.bfloat16(), coding("gelu", bits=5, drawn=True), SEEDS[1])
        yield from few_bit(name, x, coding("relu6"))
        yield from interval(name, x.half(), coding("tanh"))
        yield from output(name, x, "gelu", ())
        yield from output(name, x.double(), "elu", (1.5,))
        yield from gated(name, x, "silu", ())


def true_value(name: str, parameters, x: torch.Tensor) -> torch.Tensor:
    """The activation in float64."""
    return evaluate(name, "value", list(parameters), x.double())


def true_slope(name: str, parameters, x: torch.Tensor) -> torch.Tensor:
    """Its derivative in float64."""
    return evaluate(name, "slope", list(parameters), x.double())


def spacing(truth: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The unit in the last place of `dtype` at each of these float64 numbers."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(truth.abs().clamp(info.smallest_normal, info.max))
    return torch.ldexp(torch.full_like(truth, info.eps), exponent - 1)


def ulps(found: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest error in units in the last place; infinite for NaN in but one of the two."""
    same = (found == truth.to(found.dtype)) | (found.isnan() & truth.isnan())
    off = (found.double() - truth).abs() / spacing(truth.nan_to_num(), found.dtype)
    return torch.where(same, 0.0, off).nan_to_num(math.inf).max().item() if off.numel() else 0.0


def kink_free(row: Activation, x: torch.Tensor, eps: float) -> torch.Tensor:
    """Where the output does not round to that of a kink, whose slope is either side's."""
    y, away = true_value(row.name, row.defaults, x), torch.ones_like(x, dtype=torch.bool)
    for level in calculus.value_curve(row)(calculus.kinks(row)):
        away &= (y - level).abs() > eps * abs(level)
    return away
