"""Sketches of a matrix's rows: S X in fewer rows, where S is drawn from a seed and kept nowhere.

Wherever E[SᵀS] = I, (S Y)ᵀ (S X) is an unbiased estimate of Yᵀ X. Here S is made of blocks along
its diagonal: 256 to 511 rows of X are mixed with each other and with no others (unless k < n / 256)
so that a dense S costs no more with a longer batch. Within a block of n rows, of which k are kept,

    gaussian    S = N(0, 1) / √k
    rademacher  S = ±1 / √k                         (Achlioptas, 2003)
    hadamard    S = √(n/k) R H D, n up to a power of two (Ailon and Chazelle, 2009)
    dct, dft    S = √(n/k) R F D                    (Halko, Martinsson and Tropp, 2011, 4.6)
    crs         S = √(n/k) R                        (Drineas, Kannan and Mahoney, 2006)

D has random signs on its diagonal, H is Walsh's and Hadamard's matrix, F the DCT-II or the real
Fourier basis, all orthonormal, and R takes k rows, one at random from each of k equal strata, which
never has more variance than drawing them independently.
"""

import torch

from ..layout import at_least_one
from ..native import compose, define, underivable
from . import checks, reference

SEEDS = (-(2**63), 2**63 - 1)
PARTS = 10**6  # what a ratio is counted in, so that rows of a symbolic size stay integers
KINDS = (*checks.KINDS, "crs_norm")
ONCE = (
    "the gradient of a weight is estimated from a sketch of its input, and what a second "
    "derivative needs is not kept. Use torch.nn.Linear where gradients are differentiated again."
)


def _sketch_fake(x, kind, rows, seed):
    checks.sketch(x, kind, rows, seed)
    return x.new_empty([rows, x.size(1)])


def _keyed(x, kind, rows, seed):
    return _sketch(x, kind, rows, seed), seed.clone()


def _sample_fake(x, rows, seed):
    checks.sample(x, rows, seed)
    return x.new_empty([rows, x.size(1)]), x.new_empty([rows], dtype=torch.int64)


_sketch = define(
    "sketch",
    reference=reference.sketch,
    fake=_sketch_fake,
    derivative=underivable("sketch", ONCE),
)
_keyed_sketch = compose(
    "keyed_sketch",
    "(Tensor x, str kind, SymInt rows, Tensor seed) -> (Tensor kept, Tensor key)",
    kernel=_keyed,
    derivative=underivable("keyed_sketch", ONCE),
)
_sample = compose(
    "sample",
    "(Tensor x, SymInt rows, Tensor seed) -> (Tensor sampled, Tensor places)",
    kernel=reference.sample,
    fake=_sample_fake,
    derivative=underivable("sample", ONCE),
)


def sketch(x: torch.Tensor, kind: str, rows: int, seed: torch.Tensor) -> torch.Tensor:
    """Return S x, [rows, d], of a matrix x [n, d], 1 <= rows <= n, and x's dtype.

    x is float32, bfloat16, float16 or float64 of any strides; sums are float32, or float64 of
    float64. `seed`, an int64 tensor of one element on x's device, makes S: the same S for any x of
    n rows. Raises RuntimeError for what does not fit, and if it is differentiated.
    """
    return _sketch(x, kind, rows, seed)


def sample(x: torch.Tensor, rows: int, seed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw rows of x in proportion to their norms: x[places] / (rows * probability), and places.

    Then y[places]ᵀ sampled is an unbiased estimate of yᵀ x (Drineas, Kannan and Mahoney, Fast
    Monte Carlo Algorithms for Matrices I, 2006), with one draw from each of `rows` strata of equal
    probability. sampled [rows, d] is of x's dtype, places int64 [rows]. Raises as `sketch` does.
    """
    return _sample(x, rows, seed)


def project(
    x: torch.Tensor, kind: str, rows: int, seed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sketch the one factor of a product: what is kept of it, and what the other one needs."""
    return sample(x, rows, seed) if kind == "crs_norm" else (sketch(x, kind, rows, seed), seed)


def project_traced(
    x: torch.Tensor, kind: str, rows: int, seed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do as `project`, in a graph that a compiler cuts into a forward and a backward.

    A draw of a seed has no inputs: what reads it in the backward might draw another one than the
    sketch was made of in the forward. What one operator returns is kept, or computed again, as one.
    """
    return sample(x, rows, seed) if kind == "crs_norm" else _keyed_sketch(x, kind, rows, seed)


def follow(y: torch.Tensor, kind: str, rows: int, key: torch.Tensor) -> torch.Tensor:
    """Sketch the other factor [n, e] as `project` did the one; follow(y)ᵀ kept estimates yᵀ x."""
    return y.index_select(0, key) if kind == "crs_norm" else sketch(y, kind, rows, key)


def rows_of(n: int, ratio: float) -> int:
    """How many rows a sketch of n has at this ratio, at least one; n may be symbolic."""
    # Dynamo makes a symbol of a float that differs between modules; its text is none.
    return at_least_one(n * round(float.fromhex(float(ratio).hex()) * PARTS) // PARTS)
