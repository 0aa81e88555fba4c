"""Parts of one storage that norms read are kept normalised, each by its own statistics."""

import pytest
from torch.nn import functional as F

from .test_normalised import PRESETS, options, rows, weighed
from .tools import gradients, relative


def of_parts(x, w):
    """Queries and keys of one layer, each normalised; the rest is not read again."""
    q, k, _ = (x @ w).view(16, 4, 3, -1).unbind(2)
    return F.rms_norm(q, (q.shape[-1],)).tanh() * F.layer_norm(k, (k.shape[-1],)).tanh()


def latent(x, w):
    h, rest = (x @ w).split([w.shape[1] - 8, 8], 1)
    return F.rms_norm(h, (h.shape[1],)).tanh().sum(1) + rest.detach().sum(1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("f", [of_parts, latent])
def test_gradient(f, preset):
    given = rows(48, 1.5)
    wanted = gradients(weighed(f), *(t.detach().double().requires_grad_() for t in given))[1:]
    found = gradients(weighed(f), *given, policy=options(preset))[1:]
    assert max(map(relative, found, wanted)) < PRESETS[preset]
