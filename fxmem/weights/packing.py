"""A trained model in the bits that its method needs, in one call."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx, nn

from .claims import check_free
from .export import Export, export
from .held import Held
from .methods import Treatment
from .rewritten import rewritten


def pack_model(
    model: nn.Module,
    layers: fx.GraphModule | Mapping[str, str],
    masters: torch.dtype | None = None,
) -> Export:
    """The export of a model that was trained without a manager: by the graph rule `integer`.

    Packed are the weights of the layers that the rule made integer, each as the rule quantizes it;
    what it left alone stays as it is, and so does a weight that anything else in the graph reads.
    Loaded into a new model and transformed by the same rule, all methods compute the same to the
    last bit in float32, but DoReFa's of more than 3 bits, whose weights do not stay what they are
    when they are quantized again. In half precision scales are rounded to the model's dtype (0.3 %
    of an XNOR layer's output in bfloat16), unless `load_into(model, exact=True)` keeps them.

    Args:
        model: what was trained.
        layers: the graph that `fxmem.transform` returned, which shares the model's weights; or the
            rule's method for each layer's name, {"middle": "xnor"}, as the plan of a compiled
            model says which were rewritten.
        masters: a dtype, to keep the real weights, too.

    Raises:
        ValueError: for a graph of another model or without a layer in integers, and for a layer or
            a method that does not exist.
        TypeError: for other `layers`.
        OrderError: while a manager has a weight quantized.
    """
    chosen = [Held(site, Treatment(quantizer)) for site, quantizer in rewritten(model, layers)]
    check_free(chosen, "pack_model()")
    return export(model, {held: held.parameter.detach() for held in chosen}, masters)
