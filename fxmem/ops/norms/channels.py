"""The channels of a norm whose normalised input does not follow from the output.

y = x_hat * weight + bias, rounded: x_hat comes back with an error of (|bias| / |weight| + |x_hat|)
roundings, and not at all where the weight is 0. Of such channels x_hat is kept beside the output.
So it is of those that an activation has rounded to its limit: see `saturation`.

How many there are is looked up at every call on a CPU, where a look costs nothing. Elsewhere a look
would wait for the device: there the number of places is known beforehand, and the worst channels
of the very call take them. Counts come without waiting, and set the places of later calls. For a
channel without a place x_hat follows from the output all the same, with more rounding, or counts as
0 where that is hopeless, and a warning says so when it is known.
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass

import torch
from torch.utils.weak import WeakTensorKeyDictionary

# Of |bias| / |weight|: up to here the error of a weight's gradient in half precision is at most
# twice that of x_hat itself, whatever the gradient is: sqrt(1 + 1 + 1.4^2) < 2.
LARGEST_SHIFT = 1.4
# Of the error that elu's output leaves in x_hat, the root mean square over a channel, in roundings
# of elu's limit: plain's gradient has two roundings in half precision, of 0.2 eps each, and this is
# 0.14 eps, or less as the gradient lies along x_hat: (3.4 * 0.14)^2 < (2^2 - 1) * 2 * 0.2^2.
LARGEST_BLUR = 3.4
# The least weight to divide by: the square of what it becomes must not become infinite.
LEAST_WEIGHT = 2.0**-40
# Channels beyond this shift get places, and as many more, since weights move between two looks.
WATCHED_SHIFT = 1.0
SPARE = 32


def lost(
    weight: torch.Tensor, bias: torch.Tensor | None, least: float, shift: float
) -> torch.Tensor:
    """Return a bool for each element: whether it is below `least`, or below |bias| / shift."""
    limit = least if bias is None else (bias.abs() / shift).clamp_min_(least)
    return weight.abs() < limit


def saturation(y: torch.Tensor) -> torch.Tensor:
    """Return the bias, [C], that would err in x_hat as much as y, [N, C, *], taken from elu(y).

    Below 0 elu's output is rounded by a part of its limit times 1 - exp(y), and y changes exp(-y)
    times as much: by expm1(-y) roundings, whose root mean square over a channel is looked at. So
    few elements, or only one, that are far below 0 count by what they do. Overwrites y.
    """
    wide = torch.promote_types(y.dtype, torch.float32)
    others = [dim for dim in range(y.dim()) if dim != 1]
    errors = y.clamp_(max=0).neg_().expm1_()
    total = torch.linalg.vector_norm(errors, dim=others, dtype=wide)
    return total * (LARGEST_SHIFT / LARGEST_BLUR / math.sqrt(y.numel() / y.shape[1]))


@functools.cache
def least(dtype: torch.dtype) -> float:
    """Return the least weight that keeps x_hat in the output: below it, bits are missing."""
    return max(4 * torch.finfo(dtype).tiny, LEAST_WEIGHT)


@functools.cache
def underflow(dtype: torch.dtype, slope: float) -> float:
    """Return the bias that loses all weights whose product with a slope underflows, 0 for none.

    x_hat of such a channel is off by more than a rounding of 1 wherever the slope has been applied.
    """
    smallest = torch.finfo(dtype).tiny / slope
    return smallest * LARGEST_SHIFT if smallest > least(dtype) else 0.0


@functools.cache
def steepest(dtype: torch.dtype) -> float:
    """Return the largest shift of a channel without a place: x_hat is off by a rounding's root."""
    return torch.finfo(dtype).eps ** -0.5


def kept(
    weight: torch.Tensor | None, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """Return the flat indices of the channels whose x_hat is kept, int64; None without a weight."""
    if weight is None:
        return None
    if not waits(weight):
        return lost(weight, bias, least(dtype), LARGEST_SHIFT).flatten().nonzero().squeeze(1)
    parameter = parameter_of(weight)
    if parameter is None:
        return worst(weight, bias, dtype, weight.numel())
    look = _looks.get(parameter)
    if look is None:
        look = _looks[parameter] = Look()
    return worst(weight, bias, dtype, look.places(weight, bias, dtype))


def parameter_of(weight: torch.Tensor) -> torch.Tensor | None:
    """Return what a weight is made of at each call, as 1 + parameter is; None if unknown.

    What is looked up is remembered of it, for the weight itself may be new at each call.
    """
    function = weight.grad_fn
    while function is not None and not hasattr(function, "variable"):
        function = next((parent for parent, _ in function.next_functions if parent), None)
    if function is not None:
        return function.variable
    is_lasting = weight.requires_grad or isinstance(weight, torch.nn.Parameter)
    return weight if is_lasting and weight.is_leaf else None


def waits(tensor: torch.Tensor) -> bool:
    """Whether to read a tensor's numbers would wait for a device."""
    return tensor.device.type != "cpu"


def is_fixed(weight: torch.Tensor) -> bool:
    """Whether the count of places may not change now.

    What a checkpoint computes again must be as large as it was, and a capture of a CUDA graph
    forbids to ask for what has come.
    """
    recomputes = torch._C._current_graph_task_id() != -1
    return recomputes or (weight.is_cuda and torch.cuda.is_current_stream_capturing())


def worst(
    weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, places: int
) -> torch.Tensor:
    """Return the flat indices of the `places` channels that are lost before all others."""
    if places == 0:
        return torch.empty(0, dtype=torch.int64, device=weight.device)
    size = weight.detach().abs().flatten().float()
    shift = 1 / size if bias is None else bias.detach().abs().flatten().float() / size
    gone = size < least(dtype)
    return shift.masked_fill(gone, torch.inf).topk(places).indices


@dataclass
class Look:
    """What is known of one weight: its count of channels, and the counts that are on the way."""

    count: int | None = None
    coming: tuple[torch.Event, torch.Tensor, int] | None = None

    def places(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> int:
        """Return how many channels to keep now; only the first look of all waits."""
        if is_fixed(weight):
            return self._given(weight)
        self._receive()
        if self.coming is not None:
            return self._given(weight)
        shifts = (WATCHED_SHIFT, LARGEST_SHIFT)
        found = (lost(weight, bias, least(dtype), shift).sum() for shift in shifts)
        counts = torch.stack(list(found))
        if self.count is None:
            self.count = int(counts[0])
        given = self._given(weight)
        self.coming = (*sent(counts), given)
        return given

    def _given(self, weight: torch.Tensor) -> int:
        if self.count is None:
            return weight.numel()
        spare = weight.numel() // SPARE + 1 if self.count else 0
        return min(weight.numel(), 2 * self.count + spare)

    def _receive(self) -> None:
        if self.coming is None or not self.coming[0].query():
            return
        _, counts, given = self.coming
        self.coming = None
        self.count, needed = counts.tolist()
        if needed > given:
            warnings.warn(
                f"the weight of a norm kept as its output is too small beside its bias in {needed} "
                f"channels, and {given} had a place: in one step the others' normalised input was "
                "rounded more, or counted as 0. From now on there are places for them",
                stacklevel=2,
            )


def sent(counts: torch.Tensor) -> tuple[torch.Event, torch.Tensor]:
    """Copy counts to the CPU without waiting; return what tells when they are there, and them."""
    here = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True)
    here.copy_(counts, non_blocking=True)
    event = torch.Event(counts.device)
    event.record()
    return event, here


_looks: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
