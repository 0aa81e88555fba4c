"""Norms that a library writes by hand, as LlamaRMSNorm is: known by what they compute."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from fxmem import functional
from fxmem.ops.norms.operators import is_ours
from fxmem.passes.forward.constants import attribute, call
from fxmem.passes.forward.eager import plainly
from fxmem.passes.forward.norms.idioms import Idiom, find

from .recognition import in_both_modes
from .twins import own_state

Module = torch.nn.Module


class Found(NamedTuple):
    """Torch's norm, the names of the module's own weight and bias, and what is added to the weight.

    Gemma's weight is 1 + parameter.
    """

    kind: str
    weight: str
    bias: str | None
    offset: float
    eps: float


class _ByHand:
    """A norm that keeps its output; a mixin before the module's own class."""

    fxmem_norm: Found

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise over the last dimension; as the module's own where nothing would be gained."""
        kind, weight, bias, offset, eps = self.fxmem_norm
        given = [getattr(self, name) for name in (weight, bias) if name]
        same = all(parameter.dtype == input.dtype for parameter in given)
        if not same or input.dim() < 2 or not is_ours(input, *given):
            return super().forward(input)
        gain = given[0] + offset if offset else given[0]
        return getattr(functional, kind)(input, gain.shape, gain, *given[1:], eps=eps)

    def extra_repr(self) -> str:
        theirs = super().extra_repr()
        return f"{theirs}, keep='output'" if theirs else "keep='output'"

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return _rebuilt, (type(self).__mro__[2], self.__dict__)


def _rebuilt(kind: type[Module], state: dict[str, Any]) -> Module:
    module = class_of(kind).__new__(class_of(kind))
    module.__dict__.update(state)
    return module


@functools.cache
def class_of(kind: type[Module]) -> type[Module]:
    """The class of such a module that keeps its output: one of its own, and under its name."""
    return type(kind.__name__, (_ByHand, kind), {"__module__": "fxmem.nn"})


def twin_by_hand(module: Module, **options: Any) -> Module | None:
    """The same module, with its own parameters, that keeps its output; None for no such norm.

    Raises ValueError for options, which are those of activations.
    """
    found = None if isinstance(module, _ByHand) else recognised_norm(module)
    if found is None:
        return None
    if options not in ({}, {"keep": "output"}):
        raise ValueError(f"{type(module).__name__} is a norm: it takes no {', '.join(options)}")
    return _rebuilt(type(module), {**own_state(module), "fxmem_norm": found})


def recognised_norm(module: Module) -> Found | None:
    """Which norm a module is, in either mode, that is made of its own parameters alone."""
    own = dict(module.named_parameters(recurse=False))
    if not own or any(True for _ in module.children()) or any(True for _ in module.buffers()):
        return None
    return in_both_modes(module, lambda: _recognised(module, own))


def _recognised(module: Module, own: dict[str, torch.Tensor]) -> Found | None:
    graph = _traced(module, next(iter(own.values())))
    with plainly():
        idioms = find(graph)[0] if graph else []
        found = [_found(idiom, own) for idiom in idioms if _is_all(graph, idiom)]
    return found[0] if found else None


def _traced(module: Module, parameter: torch.Tensor) -> fx.Graph | None:
    """Follow a forward that takes one tensor."""
    shape = (2, 3, *parameter.shape)
    try:
        return fx.symbolic_trace(module).graph
    except Exception:  # a forward may raise anything when it is given a proxy
        pass
    try:  # its control flow may depend on a dtype
        x = torch.ones(shape, dtype=parameter.dtype, device=parameter.device)
        return make_fx(module)(x.requires_grad_()).graph
    except Exception:
        return None


def _is_all(graph: fx.Graph, idiom: Idiom) -> bool:
    inputs = graph.find_nodes(op="placeholder")
    return inputs == [idiom.cone.source] and graph.output_node().args[0] is idiom.cone.exit


def _found(idiom: Idiom, own: dict[str, torch.Tensor]) -> Found | None:
    named = [_parameter(node, own) for node in (idiom.weight, idiom.bias) if node is not None]
    if idiom.weight is None or None in named or any(offset for _, offset in named[1:]):
        return None
    (weight, offset), *rest = named
    return Found(idiom.kind, weight, rest[0][0] if rest else None, offset, idiom.eps)


def _parameter(node: fx.Node, own: dict[str, torch.Tensor]) -> tuple[str, float] | None:
    """Return which parameter a weight is, and what has been added to it."""
    names: list[str] = []

    def value(node: fx.Node) -> torch.Tensor | None:
        if node.op != "get_attr":
            return call(node, fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value))
        found = [name for name, parameter in own.items() if parameter is attribute(node)]
        names.extend(found)
        return torch.arange(3.0, dtype=torch.float64) if found else attribute(node)

    with torch.no_grad():
        computed = value(node)
    if len(names) != 1 or computed is None or computed.shape != (3,):
        return None
    offset = (computed.double() - torch.arange(3.0, dtype=torch.float64)).unique()
    return (names[0], offset.item()) if len(offset) == 1 else None
