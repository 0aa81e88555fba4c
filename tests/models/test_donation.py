"""Buffers that the backward may overwrite: only where one tensor is most of what is kept."""

import pytest
import torch
from torch import nn
from torch._functorch import config
from torch.nn import functional

from fxmem.measure import Variant, peak_bytes

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
WHOLE = {"rules": {"chunked_loss": False}}  # the logits are kept


def vocabulary(backend, options=None):
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 2048, bias=False))
    x, labels = torch.randn(512, 32), torch.randint(2048, (512,))
    loss = torch.compile(
        lambda: functional.cross_entropy(model(x), labels), backend=backend, options=options
    )
    return Variant(model, loss)


def test_the_gradient_of_logits_takes_their_place():
    peaks = []
    for variant in (vocabulary("inductor"), vocabulary("fxmem", WHOLE)):
        variant.step()
        peaks.append(peak_bytes(variant.step, "cpu"))
    logits = 512 * 2048 * 4
    assert peaks[1] < 1.5 * logits
    assert peaks[1] <= 1.05 * peaks[0]


def test_then_a_second_backward_is_refused_as_inductor_refuses_it():
    loss = vocabulary("fxmem", WHOLE).forward()
    with pytest.raises(RuntimeError, match="donated_buffer=False"):
        loss.backward(retain_graph=True)


@pytest.mark.parametrize("setting", (True, False))
def test_the_setting_is_the_users(setting):
    with config.patch(donated_buffer=setting):
        loss = vocabulary("fxmem", WHOLE).forward()
        assert config.donated_buffer == setting
        if not setting:
            loss.backward(retain_graph=True)
            loss.backward()
