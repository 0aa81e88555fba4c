"""One function in every dialect of FX."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx


class Wrapped(nn.Module):
    """torch.export takes modules only."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def symbolic(function: Callable, *inputs: Any) -> fx.GraphModule:
    return fx.symbolic_trace(function)


def dynamo(function: Callable, *inputs: Any) -> fx.GraphModule:
    (seen,) = dynamos(function, *inputs)
    return seen


def dynamos(function: Callable, *inputs: Any) -> list[fx.GraphModule]:
    seen = []

    def backend(gm: fx.GraphModule, example_inputs: Any) -> Callable:
        seen.append(gm)
        return gm.forward

    torch._dynamo.reset()
    torch.compile(function, backend=backend, fullgraph=True)(*inputs)
    return seen


def exported(function: Callable, *inputs: Any) -> fx.GraphModule:
    module = function if isinstance(function, nn.Module) else Wrapped(function)
    return torch.export.export(module, inputs).module()


def aten(function: Callable, *inputs: Any) -> fx.GraphModule:
    return make_fx(function)(*inputs)


DIALECTS = {"symbolic_trace": symbolic, "dynamo": dynamo, "export": exported, "make_fx": aten}
