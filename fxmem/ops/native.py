"""The native libraries, and what serves where they are absent.

`SCHEMAS` repeats native/schema.cpp for machines without a compiler; a test compares the two.
"""

import functools
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import library
from torch._library.autograd import Info, make_autograd_impl

from .transforms import backward_alone, refusing

log = logging.getLogger("fxmem")

SCHEMAS = {
    "encode": "(Tensor x, int bits, int group, Tensor? seed=None) -> (Tensor codes, Tensor scales)",
    "decode": "(Tensor codes, Tensor scales, SymInt[] size, SymInt[] stride, int bits, int group, "
    "ScalarType dtype) -> Tensor",
    "pack": "(Tensor x, int bits) -> Tensor",
    "unpack": "(Tensor packed, SymInt[] size, SymInt[] stride, int bits, ScalarType dtype) "
    "-> Tensor",
    "classify": "(Tensor x, float[] borders, int bits, bool even=False) -> Tensor",
    "lookup": "(Tensor codes, float[] levels, int bits, SymInt[] size, SymInt[] stride, "
    "ScalarType dtype) -> Tensor",
    "few_bit": "(Tensor x, str function, float[] parameters, float[] borders, float[] levels, "
    "int bits, bool even=False, Tensor? seed=None) -> (Tensor y, Tensor codes)",
    "few_bit_backward": "(Tensor grad, Tensor codes, float[] levels, int bits, SymInt[] stride) "
    "-> Tensor",
    "from_output": "(Tensor x, str function, float[] parameters) -> (Tensor y, Tensor branch)",
    "from_output_backward": "(Tensor grad, Tensor y, Tensor branch, str function, "
    "float[] parameters) -> Tensor",
    "gated": "(Tensor gate, Tensor up, str function, float[] parameters) -> Tensor",
    "gated_backward": "(Tensor grad, Tensor gate, Tensor up, str function, float[] parameters) -> "
    "(Tensor gate_grad, Tensor up_grad)",
    "sketch": "(Tensor x, str kind, SymInt rows, Tensor seed) -> Tensor",
    "xnor_mm": "(Tensor a, Tensor b, SymInt n) -> Tensor",
    "scaled_xnor_mm": "(Tensor a, Tensor b, SymInt n, Tensor left, Tensor right) -> Tensor",
    "channels_last": "(Tensor x) -> Tensor",
    "signs": "(Tensor x) -> (Tensor bits, Tensor passes, Tensor magnitude)",
    "windows": "(Tensor x, int fill, SymInt[] kernel, SymInt[] stride, SymInt[] spread, "
    "SymInt[] before, SymInt[] dilation, SymInt[] outs, SymInt groups) -> Tensor",
    "absmax": "(Tensor x, Tensor? factor, bool by_column, int levels, Tensor? seed=None) -> "
    "(Tensor codes, Tensor scale)",
    "norm_backward": "(Tensor grad, Tensor output, Tensor rstd, Tensor? weight, Tensor? bias, "
    "Tensor? at, Tensor? side, SymInt channels, SymInt groups, bool centred, float least, "
    "float steepest, bool sums) -> (Tensor input_grad, Tensor weight_grad, Tensor bias_grad)",
    "shrink": "(Tensor v, Tensor numbers, int n, int d, int bound) -> "
    "(Tensor product, Tensor numbers_out, Tensor spilled)",
    "unshrink": "(Tensor v, Tensor numbers, Tensor? spilled, int n, int d, int bound) -> "
    "(Tensor product, Tensor numbers_out)",
}

DIRECTORY = Path(__file__).parents[1] / "lib"


def load(device: str, directory: Path = DIRECTORY) -> bool:
    """Load the native kernels of one device ("cpu" or "cuda"); say so once if that fails."""
    path = directory / f"libfxmem_{device}.so"
    if os.environ.get("FXMEM_NATIVE") == "0":
        reason = "FXMEM_NATIVE=0 was set"
    elif not path.exists():
        reason = f"{path} does not exist; build it with: python setup.py build_ext --inplace"
    else:
        try:
            torch.ops.load_library(path)
            return True
        except (OSError, RuntimeError) as error:
            reason = f"{path} was built for another machine or torch ({error})"
    log.warning("fxmem runs its slow reference operators on %s: %s", device, reason)
    return False


# The schemas live in the CPU library, so CUDA kernels are of use only beside it.
_cpu = load("cpu")
_cuda = _cpu and torch.version.cuda is not None and load("cuda")
NATIVE = frozenset(device for device, loaded in {"cpu": _cpu, "cuda": _cuda}.items() if loaded)


@functools.cache
def native_version() -> str:
    """A name for the kernels that serve, for compile caches: it changes when they do."""
    digest = hashlib.sha256()
    for device in sorted(NATIVE):
        digest.update((DIRECTORY / f"libfxmem_{device}.so").read_bytes())
    return digest.hexdigest()[:16] if NATIVE else "reference"


_library = library.Library("fxmem", "FRAGMENT" if _cpu else "DEF")


class Derivative(NamedTuple):
    """How an operator is differentiated, as torch's register_autograd wants it.

    `why_not` is the sentence where it is not, else the one of what has a backward alone.
    """

    backward: Callable
    setup_context: Callable | None = None
    why_not: str | None = None


STORES = (
    "it stores a tensor, it does not compute with one. "
    "Detach its input, or use it inside a pass that runs after differentiation."
)


def underivable(name: str, why: str = STORES) -> Derivative:
    """The derivative of an operator that has none: a sentence."""

    sentence = f"fxmem::{name} has no derivative: {why}"

    def backward(ctx, *gradients):
        raise RuntimeError(sentence)

    return Derivative(backward, why_not=sentence)


def define(
    name: str, *, reference: Callable, fake: Callable, derivative: Derivative | None = None
) -> torch._ops.OpOverload:
    """Make operator `fxmem::name` complete: schema, kernels, fake kernel and derivative.

    `reference` serves on every device without native kernels; `fake` computes shapes, dtypes and
    strides only. Without `derivative`, backward through the operator raises a sentence.
    """
    if not _cpu:
        _library.define(name + SCHEMAS[name])
    _library.impl(name, reference, "CompositeExplicitAutograd")
    return _completed(name, fake, derivative or underivable(name))


def compose(
    name: str,
    schema: str,
    *,
    kernel: Callable,
    derivative: Derivative,
    fake: Callable | None = None,
    autocast: Callable | None = None,
) -> torch._ops.OpOverload:
    """Make operator `fxmem::name` of other operators, whose fake kernels serve for its own.

    No native library has it. `fake` stands for those where they would take long. Where autocast is
    on, `autocast(device, *args)` gives the arguments.
    """
    _library.define(name + schema)
    _library.impl(name, _untracked(kernel), "CompositeExplicitAutograd")
    operator = _completed(name, fake or kernel, derivative)
    for device in ("cpu", "cuda") if autocast else ():
        _library.impl(name, _autocast(operator, device, autocast), f"Autocast{device.upper()}")
    return operator


def composite(name: str, schema: str, function: Callable) -> torch._ops.OpOverload:
    """Make operator `fxmem::name` a name for calls of others, which alone are differentiated."""
    _library.define(name + schema)
    _library.impl(name, function, "CompositeImplicitAutograd")
    return getattr(torch.ops.fxmem, name).default


def _completed(name: str, fake: Callable, derivative: Derivative) -> torch._ops.OpOverload:
    library.register_fake(f"fxmem::{name}", fake, lib=_library)
    operator = getattr(torch.ops.fxmem, name).default
    *given, why_not = derivative
    kernel = refusing(
        why_not or backward_alone(f"fxmem::{name}"), make_autograd_impl(operator, Info(*given))
    )
    _library.impl(name, kernel, "Autograd", with_keyset=True)
    return operator


def _untracked(kernel: Callable) -> Callable:
    """Let outputs that are views within the kernel be none to autograd: they may be overwritten."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)

    @functools.wraps(kernel)
    def call(*args):
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return kernel(*args)

    return call


def _autocast(operator: torch._ops.OpOverload, device: str, cast: Callable) -> Callable:
    key = getattr(torch._C.DispatchKey, f"Autocast{device.upper()}")

    def kernel(*args):
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return operator(*cast(device, *args))

    return kernel
