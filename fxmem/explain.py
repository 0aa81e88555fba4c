"""`fxmem.explain(model, *inputs)`: what is kept, where, and why, without running Inductor."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fxmem.measure import kept
from fxmem.plan import Report
from fxmem.policy import Policy


def explain(
    model: Callable[..., Any], *args: Any, policy: Policy | str | dict | None = None, **kwargs: Any
) -> Report:
    """Compile a model as backend="fxmem" does, but without Inductor, and report on it.

    The model is run forward on the inputs, so its gradients must be enabled: once to trace it (or
    twice, with and without rules asked for by name) and twice to measure what eager keeps. Random
    state and buffers are put back afterwards.

    Args:
        model: an nn.Module or a function.
        args, kwargs: its inputs.
        policy: a :class:`Policy`, a preset's name or a dict of options; default: exact.

    Raises:
        PolicyError: for an impossible policy.
        ValueError: if nothing in the model requires a gradient, so that nothing is kept.
    """
    from fxmem.observer import Observer

    policy = Policy.of(policy)
    found, plain = Observer(policy), Observer(policy.without_asked())
    with _untouched(model):
        # Without the rules asked for by name, to tell what they gain or cost.
        for observer in (found, plain) if plain.policy != policy else (found,):
            torch.compile(_fresh(model), backend=observer)(*args, **kwargs)
        if not found.plans:
            raise ValueError(
                "nothing is kept: no output of the model depends on what requires a gradient"
            )
        baselines = _eager(model, args, kwargs)
    baselines["inductor"] = (plain if plain.plans else found).inductor
    if plain.plans:
        baselines["fxmem, without rules asked for"] = Report(tuple(plain.plans)).kept
    return Report(tuple(found.plans), baselines, tuple(found.graphs))


def _eager(model: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> dict[str, int]:
    try:
        return {"eager": kept(lambda: model(*args, **kwargs)).nbytes}
    except torch.OutOfMemoryError:
        return {}  # what does not fit in eager is what fxmem is for


def _fresh(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call of `fn` with code of its own.

    Dynamo counts recompilations by code, and gives up after eight: reports on a model must not use
    up what its training will need.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return types.FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)


@contextmanager
def _untouched(model: Callable[..., Any]) -> Iterator[None]:
    """Put buffers and random state back as they were."""
    buffers = list(model.buffers()) if isinstance(model, torch.nn.Module) else []
    before = [buffer.detach().clone() for buffer in buffers]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
