"""What each method does to one weight: quantizer, gradient rule, and what follows a step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from fxmem.quantizers import Binary, Quantizer, XnorWeight, dorefa, glorot_scale, wageubn
from fxmem.quantizers.quantizer import check_bits

from .sites import Site

Function = Callable[[torch.Tensor], torch.Tensor]
POLICIES = ("quantized", "sampled", "master")


@dataclass(frozen=True)
class Treatment:
    """What is done to one weight.

    Attributes:
        quantize: a Quantizer, whose gradient rule is applied, or any function of a copy of the
            weight, whose gradient passes straight through.
        project: applied to a copy of the master before it is quantized.
        finish: applied to the master after each step, BinaryConnect's clip for one.
        update_scale: each step's change of the master is multiplied by it, before `finish`.
        policy: what `evaluate` shows: "quantized" (deterministic), "sampled" or "master".
    """

    quantize: Quantizer | Function
    project: Function | None = None
    finish: Function | None = None
    update_scale: float = 1.0
    policy: str = "quantized"

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}; got {self.policy!r}")

    @property
    def follows_steps(self) -> bool:
        """Whether anything is to be done after a step."""
        return self.finish is not None or self.update_scale != 1

    @property
    def has_rule(self) -> bool:
        """Whether the gradient is changed at all."""
        return isinstance(self.quantize, Quantizer) and not self.quantize.straight

    def sample(self, w: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """The weight that the forward computes with."""
        if isinstance(self.quantize, Quantizer):
            return self.quantize.value(self.projected(w), generator)
        return self.quantize(self.projected(w))

    def fixed(self, w: torch.Tensor) -> torch.Tensor:
        """The same without random numbers."""
        if isinstance(self.quantize, Quantizer):
            return self.quantize.deterministic().value(self.projected(w))
        return self.quantize(self.projected(w))

    def gradient(self, grad: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The master's gradient, from that of the quantized weight."""
        return self.quantize.gradient(grad, self.projected(w)) if self.has_rule else grad

    def projected(self, w: torch.Tensor) -> torch.Tensor:
        """What is quantized: a copy, but where all that reads it is known not to write into it."""
        if self.project:
            return self.project(w if self.project is centred else w.clone())
        ours = type(self.quantize).__module__.startswith("fxmem.quantizers.")
        return w if ours else w.clone()

    def finished(self, w: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """The master after a step, given it as it was before."""
        if self.update_scale != 1:
            w = before + (w - before) * self.update_scale
        return self.finish(w) if self.finish else w


def centred(w: torch.Tensor) -> torch.Tensor:
    """Each filter less its mean over the input channels: XNOR-Net's training code's projection."""
    return w - w.mean(1, keepdim=True)


def clip(limit: float) -> Function:
    """The function that clips to ±limit."""
    return lambda w: w.clamp(-limit, limit)


def binaryconnect(
    site: Site,
    *,
    stochastic: bool = False,
    scale: float | str = 1.0,
    lr_scale: bool = False,
) -> Treatment:
    """±H by sign or by chance, straight-through, masters clipped to ±H (arXiv 1511.00363).

    `scale` is H, or "glorot" for the layer's own. With `lr_scale` each step is 1/H times as long,
    as in BinaryNet's code. If `stochastic`, evaluation is with the masters, as published.
    """
    _check_switches(stochastic=stochastic, lr_scale=lr_scale)
    h = glorot_scale(site.parameter) if scale == "glorot" else scale
    if not _is_positive(h):
        raise ValueError(f"scale must be a positive number or 'glorot'; got {scale!r}")
    return Treatment(
        Binary(stochastic, scale=h),
        finish=clip(h),
        update_scale=1 / h if lr_scale else 1.0,
        policy="master" if stochastic else "quantized",
    )


def binarynet(
    site: Site,
    *,
    stochastic: bool = False,
    scale: float | str = 1.0,
    lr_scale: bool = False,
) -> Treatment:
    """As BinaryConnect; gradients pass where |w| <= H, and evaluation is binary (1602.02830)."""
    base = binaryconnect(site, stochastic=stochastic, scale=scale, lr_scale=lr_scale)
    return replace(base, quantize=replace(base.quantize, masked=True), policy="quantized")


def xnor(site: Site, *, exact: bool = False, clip_at: float | None = None) -> Treatment:
    """alpha sign(W) for each filter, its gradient as published or `exact` (arXiv 1603.05279)."""
    _check_switches(exact=exact)
    if clip_at is not None and not _is_positive(clip_at):
        raise ValueError(f"clip_at must be a positive number or None; got {clip_at!r}")
    finish = None if clip_at is None else clip(clip_at)
    return Treatment(XnorWeight(site.filters, exact), finish=finish)


def dorefa_weights(site: Site, *, bits: int = 1) -> Treatment:
    """k-bit weights, their gradient through tanh and the maximum (arXiv 1606.06160)."""
    return Treatment(dorefa.weight(bits))


def wageubn_weights(site: Site, *, bits: int = 8, update_bits: int = 24) -> Treatment:
    """Fixed-point weights; masters are kept on a grid of their own (arXiv 1909.02384)."""
    for name, width in (("bits", bits), ("update_bits", update_bits)):
        check_bits(name, width, 2, wageubn.WIDEST)
    return Treatment(wageubn.weight(bits), finish=wageubn.Direct(update_bits).value)


def _check_switches(**switches: Any) -> None:
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False; got {value!r}")


def _is_positive(value: Any) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and 0 < value < math.inf


METHODS: dict[str, Callable[..., Treatment]] = {
    "binaryconnect": binaryconnect,
    "binarynet": binarynet,
    "xnor": xnor,
    "dorefa": dorefa_weights,
    "wageubn": wageubn_weights,
}
# The layers that the papers leave real, unless the user says otherwise.
EXEMPT = {"xnor": ("first", "last"), "dorefa": ("first", "last"), "wageubn": ("first", "last")}
Method = str | Quantizer | Treatment | Function


def treatment(site: Site, method: Method, options: Mapping[str, Any]) -> Treatment:
    """The treatment of one weight. Raises ValueError or TypeError for what no method takes."""
    options = dict(options)
    project = options.pop("project", None)
    if project is not None and not callable(project):
        raise TypeError(f"project must be a function of the weight; got {project!r}")
    if isinstance(method, str):
        base = _named(method, options)(site, **options)
    elif options:
        raise ValueError(f"a function takes no options; got {', '.join(sorted(options))}")
    elif isinstance(method, Treatment):
        base = method
    elif callable(method):
        base = Treatment(method)
    else:
        raise TypeError(f"method must be a name, a Quantizer or a function; got {method!r}")
    return replace(base, project=project) if project else base


def _named(method: str, options: Mapping[str, Any]) -> Callable[..., Treatment]:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    allowed = list(inspect.signature(METHODS[method]).parameters)[1:]
    unknown = sorted(options.keys() - set(allowed))
    if unknown:
        allowed = ", ".join([*allowed, "project"])
        raise ValueError(f"{method} takes no option {', '.join(unknown)}; allowed: {allowed}")
    return METHODS[method]
