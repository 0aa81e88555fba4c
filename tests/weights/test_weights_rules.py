"""Which weights the manager takes: by type, name, index, dtype, predicate; and what it refuses."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from fxmem.quantizers import Binary, XnorWeight, dorefa
from fxmem.weights import ExternalWeightManager


def model():
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 8, 3),
            "norm": nn.BatchNorm2d(8),
            "body": nn.Sequential(nn.Conv2d(8, 8, 3), nn.Linear(8, 8), nn.LayerNorm([8, 8])),
            "up": nn.ConvTranspose2d(8, 4, 2),
            "words": nn.Embedding(10, 8),
            "attention": nn.MultiheadAttention(8, 2),
            "head": nn.Linear(8, 2),
        }
    )


NAMES = ["stem", "body.0", "body.1", "up", "attention.out_proj", "head"]


def chosen(net=None, method="binaryconnect", **options):
    manager = ExternalWeightManager(net or model(), method, **options)
    found = {held.site.name: held.treatment.quantize for held in manager.held}
    return {name.removesuffix(".weight"): quantize for name, quantize in found.items()}


def test_every_linear_and_convolution_by_default():
    assert chosen() == dict.fromkeys(NAMES, Binary())


@pytest.mark.parametrize("method", ["dorefa", "xnor", "wageubn"])
def test_first_and_last_are_exempt_where_the_paper_says_so(method):
    assert list(chosen(method=method)) == NAMES[1:-1]
    assert list(chosen(method=method, exempt=("first",))) == NAMES[1:]
    assert list(chosen(method=method, exempt=())) == NAMES


def test_filters_of_transposed_convolutions_lie_along_dimension_one():
    found = chosen(method="xnor")
    assert found["up"] == XnorWeight(filters=1) and found["body.0"] == XnorWeight()


RULES = [
    ({nn.Conv2d: None}, {"stem": None, "body.0": None}),
    ({nn.Linear: {"bits": 3}}, dict.fromkeys(("body.1", "attention.out_proj", "head"), 3)),
    ({r"body\..*": {"bits": 3}}, {"body.0": 3, "body.1": 3}),
    ({r"body\.1\.weight": {"bits": 3}}, {"body.1": 3}),
    ({0: {"bits": 3}, -1: {"bits": 4}}, {"stem": 3, "head": 4}),
    ({torch.float32: {"bits": 3}}, dict.fromkeys(NAMES, 3)),
    ({lambda module, path: path == "up": {"bits": 3}}, {"up": 3}),
    ({1: {"bits": 3}, nn.Conv2d: {"bits": 5}}, {"body.0": 3, "stem": 5}),
    ({nn.Embedding: {"bits": 3}}, {"words": 3}),
    ({"attention.in_proj_weight": {"bits": 3}}, {"attention.in_proj_weight": 3}),
    ({r".*": {"bits": 3}}, dict.fromkeys(NAMES, 3)),
]


@pytest.mark.parametrize(
    ("rules", "changed"),
    RULES,
    ids=[", ".join(getattr(k, "__name__", str(k)) for k in r) for r, _ in RULES],
)
def test_rules(rules, changed):
    wanted = {name: dorefa.weight(2) for name in NAMES}
    wanted |= {name: bits and dorefa.weight(bits) for name, bits in changed.items()}
    found = chosen(method="dorefa", bits=2, rules=rules, exempt=())
    assert found == {name: quantize for name, quantize in wanted.items() if quantize is not None}


def test_a_rule_may_name_another_method():
    rules = {0: {"method": "xnor", "exact": True}, 1: "binarynet", 2: Binary(), 3: torch.sign}
    found = chosen(method="dorefa", bits=2, rules=rules, exempt=())
    assert list(found.values())[:4] == [
        XnorWeight(exact=True),
        Binary(masked=True),
        Binary(),
        torch.sign,
    ]


def test_only_a_rule_reaches_what_is_no_layer():
    net = nn.Sequential(nn.Embedding(4, 4), nn.LayerNorm(4))
    assert list(chosen(net, rules={nn.Embedding: {}})) == ["0"]


def halves():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).bfloat16())


REFUSED = [
    (
        {"model": nn.ReLU()},
        "the model has no quantizable layer: no linear layer and no convolution",
    ),
    ({"method": "xnor", "model": halves()}, "no layer is left to quantize: 2 in all, 2 exempt"),
    ({"method": None}, "no layer is left .* a method of None all that no rule fits$"),
    ({"rules": {r"bodies\..*": None}}, r"no quantizable weight fits 'bodies\\\\.\.\*'$"),
    ({"rules": {nn.Conv1d: {}, 9: {}}}, "no quantizable weight fits Conv1d, 9$"),
    ({"rules": {torch.float16: {}}}, r"no quantizable weight fits torch.float16$"),
    ({"rules": {"norm": {}}}, "no quantizable weight fits 'norm'$"),
    (
        {"method": "xnor", "rules": {"stem": {}}},
        r"fits 'stem'; the first or last layer is exempt, unless exempt=\(\)",
    ),
    ({"method": "bnn"}, "one of binaryconnect, binarynet, xnor, dorefa, wageubn; got 'bnn'"),
    ({"bits": 3}, "takes no option bits; allowed: stochastic, scale, lr_scale, project"),
    ({"rules": {0: {"bit": 3}}}, "binaryconnect takes no option bit; allowed:"),
    ({"method": "dorefa", "bits": 17}, "bits must be a whole number from 1 to 16; got 17"),
    ({"method": "dorefa", "rules": {1: {"bits": 0}}}, "bits must be .* from 1 to 16; got 0"),
    ({"method": "wageubn", "bits": 1}, "weight: bits must be .* from 2 to 24; got 1"),
    ({"method": "wageubn", "update_bits": 40}, "weight: update_bits must be .* 2 to 24; got 40"),
    ({"scale": "he"}, "scale must be a positive number or 'glorot'; got 'he'"),
    ({"scale": -1.0}, "scale must be a positive number or 'glorot'; got -1.0"),
    ({"method": "xnor", "clip_at": 0}, "clip_at must be a positive number or None; got 0"),
    ({"rules": {"(": None}}, r"the rule '\(' is no regular expression: missing \)"),
    ({"method": torch.sign, "bits": 3}, "a function takes no options; got bits"),
    ({"exempt": ("second",)}, r"exempt takes a list of 'first' and 'last'; got \('second',\)"),
    ({"exempt": "first"}, "exempt takes a list of 'first' and 'last'; got 'first'"),
    ({"model": nn.LazyLinear(4)}, "weight has no shape yet: run the model once first"),
    (
        {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters())},
        "the optimizer has none of the weights that are managed",
    ),
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        ExternalWeightManager(**{"model": model(), **call})


@pytest.mark.parametrize(
    "compute", [parametrizations.weight_norm, spectral_norm, lambda m: prune.identity(m, "weight")]
)
def test_a_layer_whose_weight_is_computed(compute):
    net = nn.Sequential(compute(nn.Linear(4, 4)), nn.Linear(4, 4), nn.Linear(4, 4))
    for call in ({"exempt": ("first",)}, {"rules": {1: {}, "0": None}}):
        assert list(chosen(net, **call)) == ["1", "2"]
    for call in ({}, {"rules": {0: "xnor"}}, {"method": "xnor", "exempt": ("last",)}):
        with pytest.raises(ValueError, match=r"0.weight is no .* real by rules=\{'0': None\}$"):
            chosen(net, **call)


OTHER_TYPES = [
    ({"method": 3}, "weight: method must be a name, a Quantizer or a function; got 3"),
    (
        {"rules": {"head": 3}},
        "head.weight: method must be a name, a Quantizer or a function; got 3",
    ),
    ({"rules": {True: None}}, "a rule's key must be a type of module, .* got True"),
    ({"rules": {0.5: None}}, "a rule's key must be a type of module, .* got 0.5"),
    ({"stochastic": "yes"}, "stochastic must be True or False; got 'yes'"),
    ({"project": 3}, "project must be a function of the weight; got 3"),
    ({"model": [1]}, r"model must be of type Module; got \[1\]"),
    ({"optimizer": "adam"}, "optimizer must be of type Optimizer; got 'adam'"),
    ({"generator": 3}, "generator must be of type Generator; got 3"),
]


@pytest.mark.parametrize(("call", "words"), OTHER_TYPES, ids=[words for _, words in OTHER_TYPES])
def test_other_types(call, words):
    with pytest.raises(TypeError, match=words):
        ExternalWeightManager(**{"model": model(), **call})
