"""What is read from an input that the forward overwrites is not recomputed in the backward.

By then the old value is gone. Min-cut does not know: an input costs it nothing to keep, so it keeps
`n` and recomputes `2 * n`, and the backward sees the new `n` (a wrong gradient) or autograd refuses
it. AOTAutograd overwrites at the end of the forward: by `copy_`, or by the caller from an output.
Nor does Inductor, which drops a `clone` of the old value as needless before the graph is cut.
"""

from __future__ import annotations

from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.emit import emit
from fxmem.passes.graph import aten, from_tangents, is_view


def keep_overwritten(joint: fx.GraphModule) -> None:
    """Forbid recompute of what is computed directly from inputs that are overwritten."""
    overwritten = _overwritten(joint)
    backward = from_tangents(joint.graph) if overwritten else set()
    for start in overwritten:
        views = [start]
        for node in views:
            if not backward.isdisjoint(node.users):
                _read_from_copy(node)
            for user in node.users:
                if is_view(user):
                    views.append(user)
                elif user.op == "call_function":
                    user.meta.setdefault("recompute", CheckpointPolicy.MUST_SAVE)


def _read_from_copy(value: fx.Node) -> None:
    """Let a copy be read, but where the value itself is overwritten or returned.

    By the forward, too: min-cut would put a copy that the backward alone reads into the backward.
    """
    with value.graph.inserting_after(value):
        old = emit(value.graph, aten.clone.default, value, like=value)
    for user in [n for n in value.users if n is not old and not _overwrites(n, value)]:
        user.replace_input_with(value, old)


def _overwrites(user: fx.Node, value: fx.Node) -> bool:
    return user.op == "output" or (user.target is aten.copy_.default and user.args[0] is value)


def _overwritten(joint: fx.GraphModule) -> list[fx.Node]:
    inputs = joint.graph.find_nodes(op="placeholder")
    copies = joint.graph.find_nodes(op="call_function", target=aten.copy_.default)
    targets = {copy.args[0] for copy in copies}
    outputs = joint.graph.output_node().meta.get("desc", ())
    names = [out.mutated_input for out in outputs if hasattr(out, "mutated_input")]
    return [n for n in inputs if n in targets or n.meta.get("desc") in names]
