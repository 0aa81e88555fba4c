"""The loss of a linear layer in chunks where all sizes are equal: they tell no dimension."""

import pytest
import torch
import torch.nn.functional as F

from fxmem.transform import report, transform

from .dialects import dynamo
from .losses import WIDTH
from .test_chunked_loss import ASKED


def squared(move, z=lambda logits: 0.0):
    """Return the loss of moved logits [n, n, n], and of what `z` adds."""

    def loss(x, weight, labels):
        logits = move(F.linear(x, weight))
        return F.cross_entropy(logits, labels.view(-1, *logits.shape[2:])) + z(logits)

    return loss


HITS = {
    "permute(1, 2, 0)": squared(lambda y: y.permute(1, 2, 0)),
    "transpose(1, 2)": squared(lambda y: y.transpose(1, 2)),
    "swapaxes(-1, 1)": squared(lambda y: y.swapaxes(axis0=-1, axis1=1)),
    "both": squared(lambda y: y.transpose(0, 1).transpose(1, 2)),
    "flat": squared(lambda y: y.transpose(0, 1).reshape(-1, y.shape[-1])),
    "z-loss": squared(lambda y: y.permute(1, 2, 0), lambda y: y.logsumexp(1).square().mean()),
}
MISSES = {
    "the classes are not the last dimension of logits": squared(lambda y: y.transpose(0, 1)),
    "logits moves the classes elsewhere": squared(lambda y: y.permute(2, 0, 1)),
    "the bias of addmm is not one number a class": lambda x, weight, labels: F.cross_entropy(
        torch.addmm(x.sum().view(1), x.view(-1, WIDTH), weight.t()), labels
    ),
    "the logits exist anyway: logsumexp reads logits too": squared(
        lambda y: y.transpose(1, 2), lambda y: y.logsumexp(-1).square().mean()
    ),
}


@pytest.mark.parametrize("name", [*HITS, *MISSES])
def test_equal_sizes_tell_nothing(name):
    size, function = 6, {**HITS, **MISSES}[name]
    torch.manual_seed(0)
    x, weight = torch.randn(size, size, WIDTH), torch.randn(size, WIDTH)
    leaves, labels = [x.requires_grad_(), weight.requires_grad_()], torch.randint(size, (36,))
    result = transform(dynamo(function, *leaves, labels), ASKED)
    (found,) = report(result).entries
    assert getattr(found, "why", None) == (name if name in MISSES else None)
    given = {"l_x_": x, "l_weight_": weight, "l_labels_": labels}
    names = (node.name for node in result.graph.find_nodes(op="placeholder"))
    (loss,), wanted = result(*(given[name] for name in names)), function(*leaves, labels)
    pairs = (torch.autograd.grad(value, leaves) for value in (loss, wanted))
    torch.testing.assert_close(*pairs)
