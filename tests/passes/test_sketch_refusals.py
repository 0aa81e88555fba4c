"""Weight gradients that are not sketched, and why; options that are refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxmem.policy import Policy, PolicyError

from .test_sketch import SPELLINGS, Layer, asked
from .tools import partitioned, partitions


def test_what_is_read_elsewhere_is_kept_and_not_sketched():
    layer = Layer(lambda x, w, b: F.linear(x, w) * x)
    g = partitioned(layer, torch.randn(32, 16), policy=asked())
    assert not g.plan.sites and "fxmem.sketch" not in g.forward.ops
    (note,) = g.plan.notes
    assert note.endswith("its input, or what it is recomputed from, is kept for other uses anyway")
    g = partitioned(layer, torch.randn(32, 16), policy=asked(force=True))
    assert g.forward.ops["fxmem.sketch"] == 1


def test_a_frozen_weight_is_left_alone():
    layer = Layer(SPELLINGS["linear"])
    layer.weight.requires_grad_(False)
    g = partitioned(layer, torch.randn(32, 16), policy=asked())
    assert not g.plan.entries and not g.plan.notes


def test_the_callers_input_is_in_memory_anyway():
    layer = nn.Linear(16, 16)
    g = partitioned(layer, torch.randn(32, 16), policy=asked())
    assert not g.plan.sites
    assert g.plan.notes[0].endswith("its input is the caller's own, in memory anyway")


@pytest.mark.parametrize(
    "apply, weight, sentence",
    [
        (
            lambda x, w, b: torch.bmm(x.view(4, 8, 16), w),
            (4, 16, 16),
            "it has a batch of weights, each with a product of its own",
        ),
        (
            lambda x, w, b: F.conv2d(x.T.reshape(1, 16, 8, 4), w, padding=1),
            (16, 16, 3, 3),
            "a convolution of more than single points mixes rows of its input",
        ),
        (lambda x, w, b: x * w[:, :1].T, (16, 16), "which is no matrix product"),
        (lambda x, w, b: F.linear(x, w[:, :16]), (16, 17), None),
    ],
    ids=["batch of weights", "conv3x3", "product of elements", "part of a weight"],
)
def test_other_products_are_refused_in_a_sentence(apply, weight, sentence):
    g = partitioned(Layer(apply, weight), torch.randn(32, 16), policy=asked())
    assert not g.plan.sites
    assert any((sentence or "no matrix product") in note for note in g.plan.notes)


class Memory(nn.Module):
    """Attention whose keys and values are parameters."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(16, 16)
        self.key, self.value = (nn.Parameter(torch.randn(1, 2, 8, 8)) for _ in range(2))

    def forward(self, x):
        query = self.query(x.sin()).view(1, -1, 2, 8).transpose(1, 2)
        found = F.scaled_dot_product_attention(query, self.key, self.value)
        return found.transpose(1, 2).reshape(x.shape)


def test_what_has_a_gradient_among_others_is_refused_in_a_sentence():
    policy = asked(force=True)
    g = partitioned(Memory(), torch.randn(32, 16), policy=policy)
    assert sum("attention" in n and "no matrix product" in n for n in g.plan.notes) == 2
    layers = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)))
    policy = {**policy, "rules": {**policy["rules"], "integer": "int8"}}
    g = partitioned(layers, torch.randn(32, 16), policy=policy)
    assert any("linear_backward" in n and "no matrix product" in n for n in g.plan.notes)


class Latents(nn.Module):
    """A linear layer that reads a parameter, whose own gradient sums over the layer's outputs."""

    def __init__(self):
        super().__init__()
        self.latents, self.up = nn.Parameter(torch.randn(32, 16)), nn.Linear(16, 64)

    def forward(self, x):
        return x * self.up(self.latents).sin()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_parameter_that_a_layer_reads_is_left_alone(dtype):
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        g = partitioned(Latents(), torch.randn(32, 64), policy=asked(force=True))
    assert not g.plan.sites and "fxmem.sketch" not in g.backward.ops
    assert sum("its other factor is a parameter too" in note for note in g.plan.notes) >= 1


def test_small_inputs_and_ratios_that_leave_nothing_out_are_refused():
    layer, x = Layer(SPELLINGS["linear"]), torch.randn(32, 16)
    g = partitioned(layer, x, policy={"rules": {"sketch": 0.5}})
    assert "its input is smaller than min_bytes=65536" in g.plan.notes[0]
    g = partitioned(layer, x, policy=asked(1.0))
    assert "of 32 rows none would be left out" in g.plan.notes[0]


@pytest.mark.parametrize(
    "value, sentence",
    [
        (True, r"must be False, a ratio or a dict of its options, got True"),
        (0.0, r"\['ratio'\] must be a number in \(0, 1\], got 0.0"),
        (1.5, r"\['ratio'\] must be a number in \(0, 1\], got 1.5"),
        ({"kind": "crs"}, r"needs a ratio, got"),
        ({"ratio": 0.1, "kind": "fft"}, r"\['kind'\] must be one of 'gaussian'"),
        ({"ratio": 0.1, "modules": "("}, r"\['modules'\] must be a regular expression, or a dict"),
        ({"modules": {"a": 2}}, r"\['modules'\]\['a'\] must be a number in \(0, 1\], got 2"),
        ({"rate": 0.1}, r"unknown option of rule 'sketch' 'rate' \(did you mean 'ratio'"),
    ],
    ids=str,
)
def test_bad_options_are_refused(value, sentence):
    with pytest.raises(PolicyError, match=sentence):
        Policy(rules={"sketch": value})


def test_checkpointed_regions_keep_no_sketch():
    model = nn.Sequential(*[nn.Linear(16, 16, bias=False) for _ in range(3)])

    def run(x):
        return torch.utils.checkpoint.checkpoint(model, x.sin(), use_reentrant=False)

    graphs = partitions(run, torch.randn(32, 16, requires_grad=True), policy=asked())
    assert sum(len(g.plan.sites) for g in graphs) == 0
