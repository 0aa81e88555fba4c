"""`fxmem.explain(model, *inputs)`: what is kept, where, and why, without running Inductor."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves

from fxmem.measure import kept
from fxmem.plan import Report
from fxmem.policy import Policy

if TYPE_CHECKING:
    from fxmem.observer import Observer
    from fxmem.ops.sketches.projection import Projection


def explain(
    model: Callable[..., Any], *args: Any, policy: Policy | str | dict | None = None, **kwargs: Any
) -> Report:
    """Compile a model as backend="fxmem" does, but without Inductor, and report on it.

    What has been compiled already is taken as the eager code that it was made of. The model is run
    forward on the inputs, so its gradients must be enabled: once to trace it (or twice, with and
    without rules asked for by name) and twice to measure what eager keeps. Random state, buffers
    and inputs are put back afterwards. It compiles whatever `torch.compiler.set_stance` or
    `torch._dynamo.config.disable` say of other code. Where linear layers keep sketches and the
    model is an nn.Module that returns a loss, alone or among its outputs, it is run forward and
    backward once more, and the variance of each sketch is told beside the batch's own.

    Args:
        model: an nn.Module or a function.
        args, kwargs: its inputs.
        policy: a :class:`Policy`, a preset's name or a dict of options; default: exact, however
            the model has been compiled.

    Raises:
        PolicyError: for an impossible policy.
        ValueError: if nothing is kept: nothing requires a gradient, or gradients are off.
    """
    from fxmem.observer import Observer

    policy, breaks, outside = Policy.of(policy), _breaks(), 0
    found, plain = Observer(policy), Observer(policy.without_asked())
    with _untouched(model, tree_leaves((args, kwargs))) as forget:
        # Without the rules asked for by name, to tell what they gain or cost.
        for observer in (found, plain) if plain.policy != policy else (found,):
            # Shapes are these inputs' own, whatever has been explained before.
            dynamo = torch._dynamo.config.patch(automatic_dynamic_shapes=False, disable=False)
            with dynamo, torch.compiler.set_stance("default"):
                call = partial(torch.compile(_fresh(model), backend=observer), *args, **kwargs)
                call()
                forget()
                if observer is found and _breaks() > breaks:
                    outside = _outside(call, observer)
        if not found.plans:
            raise ValueError(f"nothing is kept: {_why_nothing(outside)}")
        baselines = _eager(model, args, kwargs)
        with torch.compiler.set_stance("force_eager"):
            noise = _noise(model, _sketched(found, model), args, kwargs)
    baselines["inductor"] = (plain if plain.plans else found).inductor + outside
    if plain.plans:
        baselines["fxmem, without rules asked for"] = Report(tuple(plain.plans)).kept + outside
    last = replace(found.plans[-1], notes=(*found.plans[-1].notes, *noise))
    return Report((*found.plans[:-1], last), baselines, tuple(found.graphs), outside=outside)


def _breaks() -> int:
    """Return how often Dynamo has left code to Python."""
    from torch._dynamo.utils import counters

    return sum(sum(counters[kind].values()) for kind in ("graph_break", "unimplemented"))


def _outside(call: Callable[[], Any], observer: Observer) -> int:
    """Return what a call keeps beside what its graphs do."""
    plans = tuple(observer.plans)
    try:
        return max(kept(call).nbytes - Report(plans).kept, 0)
    except torch.OutOfMemoryError:
        return 0


def _why_nothing(outside: int) -> str:
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        return "TORCHDYNAMO_DISABLE=1 turns torch.compile off"
    if not torch.is_grad_enabled():
        return "gradients are off; call explain outside torch.no_grad() and torch.inference_mode()"
    if outside:
        return (
            "torch.compile leaves all that has a gradient to eager mode; of nn.LSTM, nn.GRU and "
            "nn.RNN it makes graphs with torch._dynamo.config.allow_rnn = True"
        )
    return "no output of the model depends on what requires a gradient"


def _eager(model: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> dict[str, int]:
    try:
        with torch.compiler.set_stance("force_eager"):
            return {"eager": kept(lambda: model(*args, **kwargs)).nbytes}
    except torch.OutOfMemoryError:
        return {}  # what does not fit in eager is what fxmem is for
    except Exception:
        # In eager mode control flow (torch.cond, scan) compiles its own branches.
        with torch.compiler.set_stance("default"):
            return {"eager": kept(lambda: model(*args, **kwargs)).nbytes}


def _sketched(found: Observer, model: Callable[..., Any]) -> dict[str, Projection]:
    """Return of which modules the weight's gradient comes from a sketch, by path, and of what."""
    from fxmem.ops.sketches.projection import Projection
    from fxmem.passes.graph import module_path, plain_path

    own_paths = dict(model.named_modules()) if isinstance(model, torch.nn.Module) else {}
    traced_as = {plain_path(path): path for path in own_paths}
    sketches = (torch.ops.fxmem.sketch.default, torch.ops.aten.index_select.default)
    nodes = (node for _, backward in found.graphs for node in backward.graph.nodes)
    paths = dict.fromkeys(module_path(node) for node in nodes if node.target in sketches)
    kind = found.policy.option("sketch", "kind", "gaussian")
    wanted = {}
    for path in paths:
        ratio = found.policy.ratio("sketch", path)
        module = own_paths.get(own_path := traced_as.get(path))
        own = getattr(module, "projection", None)
        if isinstance(own, Projection):
            wanted[own_path] = own
        elif hasattr(module, "weight") and ratio:
            wanted[own_path] = Projection(ratio, matmul=kind)
    return wanted


def _noise(
    model: Callable[..., Any], wanted: dict[str, Projection], args: tuple, kwargs: dict[str, Any]
) -> tuple[str, ...]:
    """Return what sketches of these modules' inputs are seen to cost, in sentences."""
    from fxmem.nn import variances

    def step() -> None:
        outputs = tree_leaves(model(*args, **kwargs))
        losses = [t for t in outputs if torch.is_tensor(t) and t.requires_grad and t.numel() == 1]
        if losses:
            weights = [p for p in model.parameters() if p.requires_grad]
            torch.autograd.grad(losses[0], weights, allow_unused=True)

    try:
        return variances(model, step, wanted).sentences() if wanted else ()
    except torch.OutOfMemoryError:
        return ()


def _fresh(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call of `fn` with code of its own.

    Dynamo counts recompilations by code, and gives up after eight: reports on a model must not use
    up what its training will need.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return types.FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)


@contextmanager
def _untouched(model: Callable[..., Any], inputs: list[Any]) -> Iterator[Callable[[], None]]:
    """Put buffers, inputs and random state back as they were.

    Yields: what to call after a run: copies of inputs that it has not overwritten are let go.
    """
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    owned = [(module._buffers, dict(module._buffers)) for module in modules]
    buffers = {tensor for _, own in owned for tensor in own.values() if _is_writable(tensor)}
    given = {tensor for tensor in inputs if _is_writable(tensor)} - buffers
    values = {tensor: tensor.detach().clone() for tensor in buffers | given}
    # Versions tell nothing of buffers: batch norms overwrite theirs without a new one.
    versions = {tensor: tensor._version for tensor in given}

    def forget() -> None:
        for tensor, version in versions.items():
            if tensor._version == version:
                values.pop(tensor, None)

    try:
        with torch.random.fork_rng():
            yield forget
    finally:
        forget()
        for own, before in owned:
            if [*map(id, own.values())] != [*map(id, before.values())]:  # one was assigned
                own.clear()
                own.update(before)
        with torch.no_grad():
            for tensor, value in values.items():
                tensor.copy_(value)


def _is_writable(value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.is_inference():
        return False
    return value.layout != torch.strided or 0 not in value.stride()
