"""Max pooling that keeps where in its window each maximum lies, and not the input."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from .blocks import blocks
from .eager import is_differentiated, overridable
from .masks import pack, unpack
from .second import Undifferentiable, once

Numbers = int | list[int] | tuple[int, ...]
LARGEST_WINDOW = 256
SECOND = (
    "the gradient of a max pool that keeps places in its window has no derivative. Use torch's "
    "where gradients are differentiated again."
)


class Window(NamedTuple):
    """Where windows lie: a number for each dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool

    @property
    def bits(self) -> int:
        """How many a place in the window takes."""
        return max(1, (math.prod(self.kernel) - 1).bit_length())


class Places(NamedTuple):
    """The shape of what was pooled, and of the places that are kept."""

    window: Window
    input: torch.Size
    format: torch.memory_format
    size: torch.Size
    stride: tuple[int, ...]


@overridable
def max_pool1d(
    input: torch.Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> torch.Tensor:
    """torch.nn.functional.max_pool1d, keeping places in windows; see `max_pool2d`."""
    given = (kernel_size, stride, padding, dilation, ceil_mode)
    window = _window(1, *given)
    if return_indices or window is None or not _is_ours(input, 1, window):
        return F.max_pool1d(input, *given, return_indices)
    row = ((1,), (1,), (0,), (1,))
    flat = Window(*(a + b for a, b in zip(row, window[:4], strict=True)), ceil_mode)
    return _MaxPool.apply(input.unsqueeze(-2), flat).squeeze(-2)


@overridable
def max_pool2d(
    input: torch.Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> torch.Tensor:
    """torch.nn.functional.max_pool2d, keeping ceil(log2(window)) bits for each output.

    Output and gradient are equal to torch's own, bit for bit; torch keeps the input and 64 bits for
    each output. Torch's function is called for windows of more than 256 places and where indices
    are asked for.

    Args:
        input: float32, bfloat16, float16 or float64 [N, C, H, W] or [C, H, W], of any strides; of
            max_pool1d and max_pool3d with one dimension less or more.
        kernel_size, stride, padding, dilation, ceil_mode, return_indices: as torch's.

    Raises:
        RuntimeError: for what torch refuses, and if gradients are differentiated again.
    """
    given = (kernel_size, stride, padding, dilation, ceil_mode)
    window = _window(2, *given)
    if return_indices or window is None or not _is_ours(input, 2, window):
        return F.max_pool2d(input, *given, return_indices)
    return _MaxPool.apply(input, window)


@overridable
def max_pool3d(
    input: torch.Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> torch.Tensor:
    """torch.nn.functional.max_pool3d, keeping places in windows; see `max_pool2d`."""
    given = (kernel_size, stride, padding, dilation, ceil_mode)
    window = _window(3, *given)
    if return_indices or window is None or not _is_ours(input, 3, window):
        return F.max_pool3d(input, *given, return_indices)
    return _MaxPool.apply(input, window)


def _window(dims: int, *given: Numbers | None) -> Window | None:
    """Return the window, None for what torch is to refuse."""
    kernel, stride, padding, dilation, ceil_mode = given
    stride = kernel if stride is None or stride == [] else stride
    numbers = [
        (value,) * dims
        if isinstance(value, int)
        else tuple(value) * (dims if len(value) == 1 else 1)
        for value in (kernel, stride, padding, dilation)
    ]
    fits = all(len(number) == dims for number in numbers)
    return Window(*numbers, ceil_mode) if fits else None


def _is_ours(input: torch.Tensor, dims: int, window: Window) -> bool:
    fits = input.dim() in (dims + 1, dims + 2) and math.prod(window.kernel) <= LARGEST_WINDOW
    return fits and input.numel() > 0 and is_differentiated(input)


OPERATORS = {
    2: (torch.ops.aten.max_pool2d_with_indices, torch.ops.aten.max_pool2d_with_indices_backward),
    3: (torch.ops.aten.max_pool3d_with_indices, torch.ops.aten.max_pool3d_with_indices_backward),
}


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input: torch.Tensor, window: Window) -> torch.Tensor:
        forward, _ = OPERATORS[len(window.kernel)]
        output, indices = forward(input, *window)
        places = to_places(indices, input.shape, window)
        ctx.save_for_backward(pack(places, window.bits))
        format = torch._prims_common.suggest_memory_format(input)
        ctx.places = Places(window, input.shape, format, places.size(), places.stride())
        return output

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return Undifferentiable.apply(
            gradient, SECOND, once(grad), *ctx.saved_tensors, ctx.places
        ), None


def gradient(grad: torch.Tensor, bits: torch.Tensor, places: Places) -> torch.Tensor:
    """Return the input's gradient, by torch's own kernel."""
    window = places.window
    _, backward = OPERATORS[len(window.kernel)]
    codes = unpack(bits, places.size, places.stride, window.bits, torch.uint8)
    # The kernel reads the shape of the input, and no number.
    shape = {"dtype": grad.dtype, "device": grad.device, "memory_format": places.format}
    input = torch.empty(places.input, **shape)
    return backward(grad, input, *window, from_places(codes, places.input, window))


def to_places(indices: torch.Tensor, size: torch.Size, window: Window) -> torch.Tensor:
    """Turn flat indices into the input into places in the window, uint8."""
    steps, starts = _steps(size, window), _starts(indices, window)
    places = torch.empty_like(indices, dtype=torch.uint8)
    for part in blocks(indices):
        rest, place = indices[part], 0
        for dim, step in enumerate(steps):
            position = rest // step if step > 1 else rest
            rest = rest - position * step if step > 1 else rest
            offset, dilation = position - starts[dim], window.dilation[dim]
            offset = offset // dilation if dilation > 1 else offset
            place = offset + window.kernel[dim] * place
        places[part] = place
    return places


def from_places(places: torch.Tensor, size: torch.Size, window: Window) -> torch.Tensor:
    """Turn places in the window into flat indices into the input, int64."""
    steps, starts = _steps(size, window), _starts(places, window)
    axes = [
        step * dilation * torch.arange(kernel, device=places.device)
        for step, dilation, kernel in zip(steps, window.dilation, window.kernel, strict=True)
    ]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(0).flatten()
    first = sum(step * start for step, start in zip(steps, starts, strict=True))
    indices = torch.empty_like(places, dtype=torch.int64)
    for part in blocks(places):
        torch.add(offsets[places[part].int()], first, out=indices[part])
    return indices


def _steps(size: torch.Size, window: Window) -> list[int]:
    """Return how far apart neighbours of each dimension are in a plane of the input."""
    plane = size[len(size) - len(window.kernel) :]
    return [math.prod(plane[dim + 1 :]) for dim in range(len(plane))]


def _starts(output: torch.Tensor, window: Window) -> list[torch.Tensor]:
    """Return where each window starts, for each dimension, so that it broadcasts over outputs."""
    dims, starts = len(window.kernel), []
    for dim in range(dims):
        count = output.shape[output.dim() - dims + dim]
        start = torch.arange(count, device=output.device) * window.stride[dim] - window.padding[dim]
        starts.append(start.view(-1, *[1] * (dims - dim - 1)))
    return starts
