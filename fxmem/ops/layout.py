"""Memory order: the order in which a tensor's elements lie in memory.

A dense tensor (any permutation of a contiguous one) is taken as it lies; a tensor with gaps or
repeated elements is taken in logical order. Sizes and strides may be symbolic: the order is read
from hints and then proved, so no guard is added.
"""

import torch

Ints = tuple[int, ...]


def known_int(value: int) -> int | None:
    """The value of an int, or of a SymInt that is the same for every input; else None."""
    return value.node.maybe_as_int() if isinstance(value, torch.SymInt) else value


def at_least_one(value: int) -> int:
    """The value, or 1 where it is less. Dynamo of torch 2.11 traces no sym_max of two ints."""
    return torch.sym_max(value, 1) if isinstance(value, torch.SymInt) else max(value, 1)


def _hint(value: int) -> int:
    return value if isinstance(value, int) else value.node.hint or 0


def outermost_first(size: Ints, stride: Ints) -> list[int]:
    """The dimensions from the outermost in memory to the innermost, dense or not."""
    return sorted(range(len(size)), key=lambda d: (-_hint(stride[d]), known_int(size[d]) == 1))


def memory_order(size: Ints, stride: Ints) -> list[int] | None:
    """The dimensions from outermost to innermost in memory, or None if the layout is not dense."""
    order = outermost_first(size, stride)
    if any(known_int(length) == 0 for length in size):
        return list(range(len(size)))
    # Torch's own strides count a size as 1 at least, where it may be 0 for all that is known.
    expected, least = 1, 1
    for d in reversed(order):
        if known_int(size[d]) == 1:
            continue
        if 0 not in (known_int(stride[d] - step) for step in (expected, least)):
            return None
        expected, least = expected * size[d], least * at_least_one(size[d])
    return order


def count(size: Ints) -> int:
    """The number of elements, symbolic if a size is."""
    n = 1
    for length in size:
        n = n * length
    return n


def contiguous_stride(size: Ints) -> Ints:
    """The strides of a contiguous tensor of this size."""
    stride, step = [], 1
    for length in reversed(size):
        stride.append(step)
        step = step * (length if known_int(length) != 0 else 1)
    return tuple(reversed(stride))


def memory_stride(x: torch.Tensor) -> Ints:
    """The strides that `decode` and `unpack` need to lay out what was taken from `x`."""
    dense = memory_order(x.size(), x.stride()) is not None
    return tuple(x.stride()) if dense else contiguous_stride(x.size())


def flatten(x: torch.Tensor) -> torch.Tensor:
    """The elements of `x` in memory order, [n]; a view wherever `x` is dense."""
    order = memory_order(x.size(), x.stride())
    return x.contiguous().reshape(-1) if order is None else x.permute(order).reshape(-1)


def unflatten(flat: torch.Tensor, size: Ints, stride: Ints) -> torch.Tensor:
    """The inverse of `flatten`: a view of `flat` with this size and these dense strides."""
    order = memory_order(size, stride)
    outer = flat.view([size[d] for d in order])
    return outer.permute([order.index(d) for d in range(len(size))])
