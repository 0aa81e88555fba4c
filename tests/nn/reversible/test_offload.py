"""Parameters that live on one device and are used on another, for as long as a block needs them."""

import pytest
import torch

from fxmem.nn.reversible import ReversibleSequential
from fxmem.nn.reversible.block import Block

from .blocks import Conv, assert_close, chains, trained
from .test_surroundings import Stateful


@pytest.mark.parametrize("memory", ["reversible", "checkpoint", "none"])
def test_on_the_device_where_they_live_already(memory):
    blocks = [Conv(3) for _ in range(3)]
    (plain,) = chains(blocks, ["none"])
    (moved,) = chains(blocks, [memory], target_device="cpu")
    x = torch.randn(2, 6, 4, 4)
    assert_close(trained(moved, x), trained(plain, x))
    assert all(step.block.norm.num_batches_tracked == 1 for step in moved)


class Elsewhere(Block):
    """Copies where the device is the same, so that a CPU alone shows what a move does."""

    def _inside(self, instead):
        return {name: t.clone() for name, t in super()._inside(instead).items()}


def test_copies_are_used_and_their_changes_brought_home(monkeypatch):
    blocks = [Conv(3) for _ in range(3)]
    (plain,) = chains(blocks, ["none"])
    (moved,) = chains(blocks, ["reversible"], target_device="cpu")
    monkeypatch.setattr("fxmem.nn.reversible.step.Block", Elsewhere)
    seen = []
    hook = moved[0].block.conv.register_forward_pre_hook(lambda m, _: seen.append(m.weight))
    x = torch.randn(2, 6, 4, 4)
    assert_close(trained(moved, x), trained(plain, x))
    hook.remove()
    assert len(seen) == 2 and all(w is not moved[0].block.conv.weight for w in seen)
    for name, buffer in moved.named_buffers():
        torch.testing.assert_close(buffer, dict(plain.named_buffers())[name])


def test_a_buffer_that_is_replaced_is_brought_home(monkeypatch):
    blocks = [Stateful(in_place=False) for _ in range(2)]
    (plain,) = chains(blocks, ["none"])
    (moved,) = chains(blocks, ["reversible"], target_device="cpu")
    monkeypatch.setattr("fxmem.nn.reversible.step.Block", Elsewhere)
    x = torch.randn(4, 6)
    for _ in range(2):
        assert_close(trained(moved, x), trained(plain, x))
    assert all(chain[1].block.gain == 1.5**2 for chain in (plain, moved))


@pytest.fixture
def full_precision(monkeypatch):
    """Convolutions on a GPU round their factors to 10 bits where they are not told otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.cuda
@pytest.mark.parametrize("memory", ["reversible", "none"])
def test_parameters_on_the_host_and_streams_on_the_gpu(memory, full_precision):
    blocks = [Conv(3, 0.0) for _ in range(3)]
    model = ReversibleSequential(*blocks, memory=memory, target_device="cuda")
    (plain,) = chains([step.block for step in model], ["none"])
    x = torch.randn(2, 6, 4, 4)
    wanted = trained(plain.cuda(), x.cuda())
    found = trained(model, x.cuda())
    assert all(p.device.type == "cpu" and p.grad.device.type == "cpu" for p in model.parameters())
    assert_close([t.cpu() for t in found], [t.cpu() for t in wanted], rtol=1e-4)


@pytest.mark.cuda
def test_dropout_on_the_gpu(full_precision):
    plain, model = chains([Conv(3).cuda() for _ in range(3)], ("none", "reversible"))
    x = torch.randn(2, 6, 4, 4, device="cuda")
    assert_close(trained(model, x), trained(plain, x), rtol=1e-4)
