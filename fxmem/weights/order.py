"""The order of the manager's calls: quantize, forward, backward, restore, step, clip."""

from __future__ import annotations

from enum import Enum


class OrderError(RuntimeError):
    """A call out of order; the sentence names what is expected."""


class State(Enum):
    """What the model's weights are."""

    MASTER = "the weights are the masters"
    QUANTIZED = "the weights are quantized"
    RESTORED = "the weights are the masters again, and a step may follow"
    EVALUATING = "the weights are being evaluated"
    REMOVED = "this one was removed"


CHANGED = (State.QUANTIZED, State.EVALUATING)  # in which the parameters may be no masters
_CALLS = (
    *("quantize()", "restore()", "clip()", "evaluate()", "remove()"),
    *("optimizer.step()", "load_state_dict()"),
)
_EXPECTED = {
    ("restore()", State.MASTER): "quantize() first",
    ("restore()", State.RESTORED): "quantize() first",
    ("clip()", State.MASTER): "quantize(), restore() and optimizer.step() first",
    ("clip()", State.QUANTIZED): "restore() and then optimizer.step() first",
    ("optimizer.step()", State.MASTER): "quantize(), the forward and the backward first",
    ("optimizer.step()", State.QUANTIZED): "restore() first",
    **{(call, State.EVALUATING): "the end of `with manager.evaluate()` first" for call in _CALLS},
    **{(call, State.REMOVED): "a new manager" for call in _CALLS},
}


def check(call: str, state: State) -> None:
    """Raise OrderError where `call` is out of order."""
    expected = _EXPECTED.get((call, state))
    if expected:
        raise OrderError(f"{call} expects {expected}: {state.value}")
