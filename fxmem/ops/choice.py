"""Native op or ATen decomposition, by codec and device: what benchmarks/codec.py measured."""

from .native import NATIVE

# (operator, bits, device) for which the decomposition, fused by Inductor, beats the native op. On a
# CPU none does: fused into C++ loops it takes as long, compiles for three times as long, and the
# step peaks higher.
DECOMPOSED: frozenset[tuple[str, int, str]] = frozenset()


def prefers_native(op: str, bits: int, device: str) -> bool:
    """Whether the backend leaves the operator as it is; without kernels it never does."""
    return device in NATIVE and (op, bits, device) not in DECOMPOSED
