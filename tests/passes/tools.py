"""A test backend: a few lines of Python through the real partitioner, with nop compilers.

`partitioned(f, *inputs)` runs what `torch.compile(f, backend="fxmem")` runs up to Inductor, and
returns both graphs, the plan and a function to train with.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from fxmem.observer import Observer
from fxmem.passes.graph import op_name, stable_text
from fxmem.plan import Plan
from fxmem.policy import Policy


@dataclass
class Half:
    """One graph of a pair, as a test wants to see it."""

    module: fx.GraphModule
    text: str = field(init=False)

    def __post_init__(self):
        self.text = stable_text(self.module.graph)

    @property
    def ops(self) -> Counter:
        """How often each operator occurs, by its short name."""
        return Counter(op_name(n) for n in self.module.graph.nodes if n.op == "call_function")

    def names(self, op: str) -> list[str]:
        """Return the names of the nodes of that short op name, in order."""
        return [n.name for n in self.module.graph.nodes if op_name(n) == op]

    def node(self, name: str) -> fx.Node:
        return next(n for n in self.module.graph.nodes if n.name == name)


class Graph:
    """A pair that the partitioner made, and its plan."""

    def __init__(self, forward: fx.GraphModule, backward: fx.GraphModule, plan: Plan) -> None:
        self.forward, self.backward, self.plan = Half(forward), Half(backward), plan

    @property
    def taken(self) -> list[fx.Node]:
        """The backward's placeholders, tangents excluded: sizes first."""
        placeholders = self.backward.module.graph.find_nodes(op="placeholder")
        return [n for n in placeholders if "tangents" not in n.name]

    @property
    def kept(self) -> list[fx.Node]:
        """What the forward hands to the backward, the caller's inputs and sizes included."""
        returned = self.forward.module.graph.output_node().args[0]
        return list(returned[len(returned) - len(self.taken) :])

    @property
    def kept_set(self) -> str:
        """One line a storage: what the cut keeps, its bytes, and what became of it."""
        return "\n".join(
            f"{r.op} {r.dtype}{list(r.shape)} {r.nbytes} -> {e.nbytes}: {e.action}"
            for e in self.plan.entries
            for r in [e.residual]
        )

    @property
    def why(self) -> list[str]:
        """The sentences of the refusals."""
        return [refusal.why for refusal in self.plan.refusals]


class TestBackend(Observer):
    """What `fxmem.explain` compiles with: the real partitioner, then the graphs as they are."""

    __test__ = False

    def __init__(self, policy: Any = None) -> None:
        super().__init__(Policy.of(policy))

    @property
    def pairs(self) -> list[Graph]:
        return [Graph(*graphs, plan) for graphs, plan in zip(self.graphs, self.plans, strict=True)]


def renumbered(text: str) -> str:
    """Number the names of a graph's text in their order, but for inputs, whose numbers say which.

    In tracing other versions of torch count nodes that are gone by now.
    """
    names, counts = {}, Counter()
    for name in re.findall(r"(?m)^\w+(?=:)", text):
        stem = re.sub(r"_\d+$", "", name)
        if stem in ("primals", "tangents"):
            continue
        names[name] = f"{stem}_{counts[stem]}" if counts[stem] else stem
        counts[stem] += 1
    return re.sub(r"\w+", lambda found: names.get(found[0], found[0]), text)


def leaf(*shape: int, **options: Any) -> torch.Tensor:
    """Return a random tensor that wants a gradient."""
    return torch.randn(*shape, **options).requires_grad_()


def partitioned(f: Callable, *inputs: Any, policy: Any = None, **options: Any) -> Graph:
    """Compile `f`, run it forward and backward once, and return the one pair that came of it."""
    (graph,) = partitions(f, *inputs, policy=policy, **options)
    return graph


def partitions(f: Callable, *inputs: Any, policy: Any = None, **options: Any) -> list[Graph]:
    """Compile `f`, run it forward and backward once, and return every pair that came of it."""
    backend = TestBackend(policy)
    backward(torch.compile(f, backend=backend, fullgraph=True, **options)(*inputs))
    return backend.pairs


def backward(out: Any) -> None:
    """Run backward once, with a gradient that tells elements apart."""
    outs = tensors(out)
    torch.autograd.backward(outs, [slope(t) for t in outs])


def slope(t: torch.Tensor) -> torch.Tensor:
    return torch.linspace(-1, 1, t.numel()).reshape(t.shape).to(t.dtype)


def tensors(out: Any) -> list[torch.Tensor]:
    return [t for t in (out if isinstance(out, (tuple, list)) else [out]) if t.requires_grad]


def gradients(
    f: Callable, *inputs: Any, policy: Any = "eager", **options: Any
) -> list[torch.Tensor]:
    """Return the outputs of `f`, eager or compiled, and the gradients of inputs and parameters."""
    torch._dynamo.reset()
    leaves = [i for i in inputs if isinstance(i, torch.Tensor) and i.requires_grad]
    if isinstance(f, torch.nn.Module):
        leaves += [p for p in f.parameters() if p.requires_grad]
    for t in leaves:
        t.grad = None
    compiled = f if policy == "eager" else torch.compile(f, backend=TestBackend(policy), **options)
    torch.manual_seed(0)
    out = compiled(*inputs)
    backward(out)
    return [t.detach().clone() for t in tensors(out)] + [t.grad.clone() for t in leaves]


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the relative error in the Euclidean norm."""
    return ((found - exact).norm() / exact.norm()).item()
