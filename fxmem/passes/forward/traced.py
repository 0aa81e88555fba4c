"""What tracers note of a node's value: `val`, Dynamo's `example_value`, ShapeProp's record."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


def traced(node: fx.Node) -> Any:
    """Return what a tracer has noted of a node's value, None where it has noted nothing."""
    noted = (node.meta.get(key) for key in ("val", "example_value", "tensor_meta"))
    return next((value for value in noted if value is not None), None)


def dtype_of(node: fx.Node) -> torch.dtype | None:
    """Return the dtype that a node was traced with, None where no tracer has said."""
    return getattr(traced(node), "dtype", None)


def shape_of(node: fx.Node) -> tuple[int | torch.SymInt, ...] | None:
    """Return the shape that a node was traced with, None where no tracer has said."""
    shape = getattr(traced(node), "shape", None)
    return None if shape is None else tuple(shape)


def device_of(node: fx.Node) -> torch.device | None:
    """Return the device that a node was traced on, None where no tracer has said."""
    return getattr(traced(node), "device", None)
