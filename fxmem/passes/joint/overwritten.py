"""What is read from an input that the forward overwrites is not recomputed in the backward.

By then the old value is gone. Min-cut does not know: an input costs it nothing to keep, so it keeps
`n` and recomputes `2 * n`, and the backward sees the new `n` (a wrong gradient) or autograd refuses
it. AOTAutograd overwrites at the end of the forward: by `copy_`, or by the caller from an output.
"""

from __future__ import annotations

from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxmem.passes.graph import aten, is_view


def keep_overwritten(joint: fx.GraphModule) -> None:
    """Forbid recompute of what is computed directly from inputs that are overwritten."""
    for start in _overwritten(joint):
        views = [start]
        for node in views:
            for user in node.users:
                if is_view(user):
                    views.append(user)
                elif user.op == "call_function":
                    user.meta.setdefault("recompute", CheckpointPolicy.MUST_SAVE)


def _overwritten(joint: fx.GraphModule) -> list[fx.Node]:
    inputs = joint.graph.find_nodes(op="placeholder")
    copies = joint.graph.find_nodes(op="call_function", target=aten.copy_.default)
    targets = {copy.args[0] for copy in copies}
    outputs = joint.graph.output_node().meta.get("desc", ())
    names = [out.mutated_input for out in outputs if hasattr(out, "mutated_input")]
    return [n for n in inputs if n in targets or n.meta.get("desc") in names]
