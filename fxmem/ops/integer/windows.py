"""A convolution's windows as rows of a product: integers of a byte, channels-last."""

import torch
from torch.nn.functional import pad

from .. import checks
from ..layout import Ints
from ..native import define, underivable

LEAST = {"kernel": 1, "stride": 1, "spread": 1, "before": None, "dilation": 1, "outs": 0}


def _check(x: torch.Tensor, fill: int, pairs: dict[str, Ints], groups: int) -> None:
    fits = x.dim() == 4 and x.dtype in (torch.int8, torch.uint8)
    wanted = "[batch, height, width, channels] of int8 or uint8"
    checks.require(fits, "windows", "x", wanted, f"{tuple(x.shape)} of {x.dtype}")
    for name, pair in pairs.items():
        least = LEAST[name]
        more = "" if least is None else f" of at least {least}"
        right = len(pair) == 2 and (least is None or all(n >= least for n in pair))
        checks.require(right, "windows", name, f"2 numbers{more}", list(pair))
    low = torch.iinfo(x.dtype).min
    checks.require(low <= fill <= low + 255, "windows", "fill", f"{low} to {low + 255}", fill)
    divides = groups >= 1 and x.size(3) % groups == 0
    checks.require(divides, "windows", "groups", f"a divisor of {x.size(3)} channels", groups)


def _spread(x: torch.Tensor, fill: int, spread: Ints) -> torch.Tensor:
    """x with spread - 1 codes `fill` between its neighbours."""
    if tuple(spread) == (1, 1):
        return x
    (down, across), (batch, high, wide, channels) = spread, x.shape
    size = batch, max((high - 1) * down + 1, 0), max((wide - 1) * across + 1, 0), channels
    whole = x.new_full(size, fill)
    whole[:, ::down, ::across] = x
    return whole


def _reference(x, fill, kernel, stride, spread, before, dilation, outs, groups):
    pairs = dict(zip(LEAST, (kernel, stride, spread, before, dilation, outs), strict=True))
    _check(x, fill, pairs, groups)
    batch, channels = x.size(0), x.size(3)
    part = channels // groups
    places, row = batch * outs[0] * outs[1], kernel[0] * kernel[1] * part
    if places * row == 0:
        return x.new_empty(groups, places, row)
    whole = _spread(x, fill, spread)
    edges = [0, 0]
    for d in (1, 0):
        reach = (outs[d] - 1) * stride[d] + (kernel[d] - 1) * dilation[d] + 1
        edges += [before[d], reach - whole.size(1 + d) - before[d]]
    whole = pad(whole, edges, value=fill).contiguous()
    b, h, w, c = whole.stride()
    steps = (part, b, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1], c)
    views = whole.as_strided((groups, batch, *outs, *kernel, part), steps)
    return views.reshape(groups, places, row).clone()


def _fake(x, fill, kernel, stride, spread, before, dilation, outs, groups):
    row = kernel[0] * kernel[1] * (x.size(3) // groups)
    return x.new_empty(groups, x.size(0) * outs[0] * outs[1], row)


_windows = define("windows", reference=_reference, fake=_fake, derivative=underivable("windows"))


def windows(
    x: torch.Tensor,
    fill: int,
    kernel: Ints,
    stride: Ints,
    spread: Ints,
    before: Ints,
    dilation: Ints,
    outs: Ints,
    groups: int = 1,
) -> torch.Tensor:
    """The windows of x, one a row: [groups, batch * outs, kernel * channels / groups].

    x is [batch, height, width, channels] of int8 or uint8, its elements `spread` places apart, a
    number for height and one for width as in all pairs. Element k of window o reads the place
    o stride + k dilation - before; what is not there, or between elements, is `fill`. Raises
    RuntimeError for what does not fit.
    """
    return _windows(x, fill, kernel, stride, spread, before, dilation, outs, groups)
