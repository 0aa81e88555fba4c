"""The Dynamo backend: `torch.compile(model, backend="fxmem", options={...})`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from fxmem import history
from fxmem.policy import OPTIONS, Policy, PolicyError, unknown

INNER = ("inductor", "aot_eager")


def fxmem(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compile a Dynamo graph so that less is kept between its forward and its backward.

    Args:
        mode: any of torch.compile's own modes.
        options: the fields of :class:`fxmem.Policy`; `inner`: what compiles the two halves
            ("inductor", "aot_eager" or a callable taking a GraphModule and its inputs); `mode`;
            and any option of Inductor's own.

    Raises:
        PolicyError: for an unknown, impossible or conflicting option, by name.
    """
    from fxmem.partitioner import Partitioner
    from fxmem.passes.forward.asked import rewrite_asked
    from fxmem.passes.paths import shorten_paths

    policy, inner, inductor_options = read_options(mode, options or {})
    shorten_paths(gm, gm)
    trains = torch.is_grad_enabled() and any(
        isinstance(value, torch.Tensor) and value.requires_grad
        for value in (*example_inputs, *gm.parameters())
    )
    with history.compiling(trains and _gives_gradients(gm)):
        rewritten = rewrite_asked(gm, policy, trains)
        if rewritten.notes and not trains:
            history.record(rewritten)  # of what is not differentiated the partitioner is not asked
        partitioner = Partitioner(policy, rewritten, donates=inner == "inductor")
        if inner != "inductor":
            return _without_inductor(gm, example_inputs, partitioner, inner)
        patches = {**_frugal(gm, policy.lossy and trains), **inductor_options}
        return _with_inductor(gm, example_inputs, partitioner, patches)


def _gives_gradients(gm: fx.GraphModule) -> bool:
    outputs = tree_leaves(gm.graph.output_node().args)
    values = (n.meta.get("example_value") for n in outputs if isinstance(n, fx.Node))
    return any(getattr(value, "requires_grad", True) for value in values)


def _with_inductor(
    gm: fx.GraphModule, example_inputs: Sequence[Any], partitioner: Any, patches: dict[str, Any]
) -> Callable[..., Any]:
    from torch._functorch import config
    from torch._inductor.compile_fx import compile_fx

    # The partitioner sets it, graph by graph.
    with config.patch(donated_buffer=config.donated_buffer):
        patches = {**patches, "custom_partitioner_fn": partitioner}
        return compile_fx(gm, example_inputs, config_patches=patches)


def _frugal(gm: fx.GraphModule, lossy: bool) -> dict[str, Any]:
    """Return the options of Inductor that keep its own buffers from costing memory, or wrong.

    A buffer that waits for its reuse stays allocated: measured on the reference stack, 6 of
    balanced's 70 MiB at the peak, for 1 % of the time. And in the backward of nested compile
    regions Inductor (2.13) writes into buffers that are still to be read: gradients 50 % off.
    """
    from torch._higher_order_ops.invoke_subgraph import invoke_subgraph

    graphs = (module.graph for module in gm.modules() if isinstance(module, fx.GraphModule))
    nested = any(g.find_nodes(op="call_function", target=invoke_subgraph) for g in graphs)
    reuse = {"allow_buffer_reuse": False} if lossy or nested else {}
    return {**reuse, "inplace_buffers": False} if nested else reuse


def _without_inductor(
    gm: fx.GraphModule, example_inputs: Sequence[Any], partitioner: Any, inner: str | Callable
) -> Callable[..., Any]:
    from functorch.compile import make_boxed_func, nop
    from torch._dynamo.backends.common import aot_autograd

    from fxmem.compat import eager_decompositions

    # Derivatives in one op hide comparisons and exponentials from the passes: take Inductor's
    # decompositions, but for random ops, which eager draws otherwise than their decompositions.
    drawn = torch.Tag.nondeterministic_seeded
    table = eager_decompositions()
    table = {op: f for op, f in table.items() if drawn not in getattr(op, "tags", ())}

    def boxed(half: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        compiled = inner(half, inputs)
        return compiled if getattr(compiled, "_boxed_call", False) else make_boxed_func(compiled)

    compiler = nop if inner == "aot_eager" else boxed
    backend = aot_autograd(fw_compiler=compiler, decompositions=table, partition_fn=partitioner)
    return backend(gm, example_inputs)


def read_options(
    mode: str | None, options: Mapping[str, Any]
) -> tuple[Policy, str | Callable, dict[str, Any]]:
    """Sort torch.compile's options into the policy, the inner compiler and Inductor's own."""
    if not isinstance(options, Mapping):
        raise PolicyError(f"options must be a dict, as {{'preset': 'balanced'}}, got {options!r}")
    own = {key: value for key, value in options.items() if key in OPTIONS}
    inner = options.get("inner", "inductor")
    if not callable(inner) and inner not in INNER:
        raise PolicyError(
            f"inner must be one of {', '.join(map(repr, INNER))} or a callable, got {inner!r}"
        )
    known = (*OPTIONS, "inner", "mode")
    rest = {str(key): value for key, value in options.items() if key not in known}
    return Policy(**own), inner, _inductor_options(inner, options.get("mode", mode), rest)


def _inductor_options(
    inner: str | Callable, mode: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    from torch._inductor import config

    if "custom_partitioner_fn" in {key.replace("-", "_") for key in options}:
        raise PolicyError("custom_partitioner_fn: fxmem is the partitioner; use another backend")
    known = config.get_config_copy()
    for key in options:
        if key.replace("-", "_") not in known:
            sentence = unknown("option", key, (*OPTIONS, "inner", "mode"))
            raise PolicyError(f"{sentence}; and any of torch._inductor.list_options()")
    if inner != "inductor" and (options or mode not in (None, "default")):
        given = ", ".join([*options, *([f"mode={mode!r}"] if mode else [])])
        raise PolicyError(f"{given}: an option of Inductor's, but inner is {inner!r}")
    return torch._TorchCompileInductorWrapper(mode, options, None).config
