"""The quantizers with their formulas, and tensors to put them to."""

import math

import numpy as np
import torch

from fxmem.quantizers import Binary, Quantizer, XnorWeight, dorefa, wageubn

from . import formulas

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CASES: list[tuple[Quantizer, object]] = [
    *((wageubn.Direct(k), lambda x, k=k: formulas.direct(x, k)) for k in (2, 8, 16)),
    *(
        (wageubn.AllDirect(f, b), lambda x, f=f, b=b: formulas.all_direct(x, f, b))
        for f, b in ((8, 8), (8, 12), (4, 2), (16, 16))
    ),
    *((wageubn.weight(k), lambda x, k=k: formulas.weight(x, k)) for k in (2, 8)),
    *(
        (wageubn.Constant(r, k, False), lambda x, r=r, k=k: formulas.constant(x, r, k))
        for r, k in ((8, 15), (2, 15), (8, 8))
    ),
    *((wageubn.Shift(k), lambda x, k=k: formulas.shift(x, k)) for k in (2, 3, 8, 16)),
    *((wageubn.Flag(k), lambda x, k=k: formulas.flag(x, k)) for k in (2, 4, 8, 12)),
    *((dorefa.weight(k), lambda x, k=k: formulas.dorefa_weight(x, k)) for k in (2, 3, 8)),
    *(
        (dorefa.Activation(k), lambda x, k=k: formulas.dorefa_activation(x, k))
        for k in (1, 2, 8, 16)
    ),
    *(
        (dorefa.Gradient(k, False), lambda x, k=k: formulas.dorefa_gradient(x, k))
        for k in (1, 2, 6, 8)
    ),
    *((Binary(scale=h), lambda x, h=h: formulas.binary(x, h)) for h in (1.0, 0.3)),
]
IDS = [str(quantizer) for quantizer, _ in CASES]
QUANTIZERS = [q for q, _ in CASES] + [dorefa.WeightBit(), XnorWeight(), XnorWeight(filters=1)]


def inputs():
    """Tensors that stress one thing each, [8, 12]."""
    draw = np.random.default_rng(3)
    normal = draw.standard_normal((8, 12)).astype(np.float32)
    yield "normal", normal
    yield "small", normal * np.float32(1e-5)
    yield "large", normal * np.float32(1e6)
    yield "zero", np.zeros((8, 12), np.float32)
    yield "negative zero", -np.zeros((8, 12), np.float32)
    yield "some zero", normal * np.float32(np.arange(8)[:, None] % 2)
    yield "a power of two", np.clip(normal / 4, -0.5, 0.5)
    ties = (np.arange(96, dtype=np.float32).reshape(8, 12) - 48) / 2
    for k in (2, 3, 8):
        yield f"ties of {k} bits", np.float32(ties / 2 ** (k - 1))
    yield "ends of the range", np.tile(np.float32([-1, 1, -1 + 2**-8, 1 - 2**-9]), (8, 3))
    for power in (-30, 0, 17):  # just below and just above the middle between two powers
        root = np.float32(math.sqrt(2) * 2.0**power)
        edges = [np.nextafter(root, np.float32(0)), root, np.nextafter(root, np.float32(np.inf))]
        for edge in edges:
            yield f"magnitude {edge}", normal / np.abs(normal).max() * edge
