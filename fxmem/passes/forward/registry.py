"""The ordered registries of what rewrites a forward graph: one line each."""

from torch import fx

from fxmem.passes.forward import chunked_loss, integer, sketched_linear
from fxmem.passes.forward.exact_codes import ExactCodes
from fxmem.passes.forward.from_output import FromOutput
from fxmem.passes.forward.gated import Gated
from fxmem.passes.forward.norms import rewrite as norms
from fxmem.passes.forward.quantized_gradient import QuantizedGradient
from fxmem.passes.forward.rewrite import rewrite
from fxmem.plan import Plan
from fxmem.policy import Policy

# Of activations. Exact ones come first, and of those the gated pair, which keeps the least: its
# factors alone.
RULES = (Gated(), FromOutput(), ExactCodes(), QuantizedGradient())


def _activations(gm: fx.GraphModule, policy: Policy) -> list[Plan]:
    return rewrite(gm, [rule for rule in RULES if policy.allows(rule.name, eager=True)], policy)


# Of `fxmem.transform`: the switch that allows a pass, None where its rules have their own. What
# computes in integers keeps those, and so nothing for a neighbour. Norms come before activations,
# for one that keeps its output does not keep an activation's.
PASSES = (
    (integer.NAME, integer.rewrite_layers),
    (sketched_linear.NAME, sketched_linear.rewrite_linears),
    (norms.NAME, lambda gm, policy: norms.rewrite_norms(gm)),
    (None, _activations),
    (chunked_loss.NAME, chunked_loss.rewrite_losses),
)
