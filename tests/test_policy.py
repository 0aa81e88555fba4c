"""What may be asked for, and the sentence for everything else."""

import copy
import pickle

import pytest

from fxmem import Policy, PolicyError
from fxmem.policy import BITS

WIDTHS = ", ".join(map(str, BITS))
RULES = (
    "seeds, reversible, remat, discrete, masks, places, parts, few_bit, encode, sketch, "
    "chunked_loss, integer, gated, from_output, exact_codes, norm_from_output, "
    "quantized_gradient"
)
CODES = "1, 2, 3, 4, 5, 6, 7, 8"

REFUSED = {
    "unknown preset": (
        {"preset": "Balanced"},
        "preset must be one of 'exact', 'balanced', 'compact', got 'Balanced'",
    ),
    "preset of another type": (
        {"preset": ["exact"]},
        "preset must be one of 'exact', 'balanced', 'compact', got ['exact']",
    ),
    "impossible bits": (
        {"preset": "balanced", "bits": 9},
        f"bits must be one of {WIDTHS}, got 9",
    ),
    "bits that are no integer": (
        {"preset": "balanced", "bits": 8.0},
        f"bits must be one of {WIDTHS}, got 8.0",
    ),
    "impossible group": (
        {"preset": "balanced", "group": 48},
        "group must be one of 32, 64, 128, 256, got 48",
    ),
    "unknown rounding": (
        {"preset": "compact", "rounding": "up"},
        "rounding must be one of 'nearest', 'stochastic', got 'up'",
    ),
    "negative min_bytes": (
        {"min_bytes": -1},
        "min_bytes must be a non-negative number of bytes, got -1",
    ),
    "fractional min_bytes": (
        {"min_bytes": 1.5},
        "min_bytes must be a non-negative number of bytes, got 1.5",
    ),
    "min_bytes that is a bool": (
        {"min_bytes": True},
        "min_bytes must be a non-negative number of bytes, got True",
    ),
    "budget of nothing": ({"budget": 0}, "budget must be a number in (0, 1], got 0"),
    "budget over one": ({"budget": 1.5}, "budget must be a number in (0, 1], got 1.5"),
    "budget that is a bool": ({"budget": True}, "budget must be a number in (0, 1], got True"),
    "budget that is no number": (
        {"budget": float("nan")},
        "budget must be a number in (0, 1], got nan",
    ),
    "rules that are no dict": (
        {"rules": ["masks"]},
        "rules must be a dict of rule name to True, False or a dict of the rule's options, "
        "got ['masks']",
    ),
    "unknown rule": (
        {"rules": {"mask": False}},
        f"unknown rule 'mask' (did you mean 'masks'?); allowed: {RULES}",
    ),
    "rule neither on nor off": (
        {"rules": {"masks": "off"}},
        "rules['masks'] must be True or False, got 'off'",
    ),
    "options of a rule that has none": (
        {"rules": {"masks": {"bits": 1}}},
        "rules['masks'] must be True or False, got {'bits': 1}",
    ),
    "a rule's options that are no dict": (
        {"rules": {"quantized_gradient": 3}},
        "rules['quantized_gradient'] must be True, False or a dict of its options, got 3",
    ),
    "unknown option of a rule": (
        {"rules": {"quantized_gradient": {"bit": 3}}},
        "unknown option of rule 'quantized_gradient' 'bit' (did you mean 'bits'?); "
        "allowed: bits, unbiased",
    ),
    "impossible option of a rule": (
        {"rules": {"few_bit": {"bits": 0}}},
        f"rules['few_bit']['bits'] must be one of {CODES}, got 0",
    ),
    "option of a rule of another type": (
        {"rules": {"quantized_gradient": {"unbiased": 1}}},
        "rules['quantized_gradient']['unbiased'] must be one of False, True, got 1",
    ),
    "bits conflict with exact": (
        {"bits": 8},
        "preset 'exact' keeps residuals unencoded, so bits=8 conflicts with it; "
        "use preset 'balanced' or 'compact'",
    ),
    "group conflicts with exact": (
        {"group": 64},
        "preset 'exact' keeps residuals unencoded, so group=64 conflicts with it; "
        "use preset 'balanced' or 'compact'",
    ),
    "rounding conflicts with exact": (
        {"rounding": "stochastic"},
        "preset 'exact' keeps residuals unencoded, so rounding='stochastic' conflicts with it; "
        "use preset 'balanced' or 'compact'",
    ),
    "bits of attention conflict with exact": (
        {"rules": {"encode": {"attention": 6}}},
        "preset 'exact' keeps residuals unencoded, so attention=6 conflicts with it; "
        "use preset 'balanced' or 'compact'",
    ),
    "unknown option": (
        {"bit": 8},
        "unknown option 'bit' (did you mean 'bits'?); allowed: "
        "preset, bits, group, rounding, min_bytes, budget, rules",
    ),
}


@pytest.mark.parametrize("options, sentence", REFUSED.values(), ids=REFUSED)
def test_refused(options, sentence):
    with pytest.raises(PolicyError) as error:
        Policy.of(options)
    assert str(error.value) == sentence


def test_of_something_else_is_refused():
    with pytest.raises(PolicyError) as error:
        Policy.of(8)
    assert str(error.value) == "policy must be a Policy, a preset's name or a dict, got 8"


def test_of_takes_every_spelling():
    policy = Policy("balanced", bits=4)
    assert Policy.of(policy) is policy
    assert Policy.of("compact") == Policy("compact")
    assert Policy.of({"preset": "balanced", "bits": 4}) == policy
    assert Policy.of(None) == Policy() == Policy("exact")


@pytest.mark.parametrize(
    "options, width", [({}, None), ({"preset": "balanced"}, 8), ({"preset": "compact"}, 4)]
)
def test_presets_have_a_width(options, width):
    assert Policy(**options).width == width


def test_bits_override_the_preset():
    assert Policy("balanced", bits=2).width == 2


def test_lossy():
    assert not Policy().lossy
    assert Policy("balanced").lossy
    assert not Policy("balanced", rules={"encode": False}).lossy


def test_rules_are_on_unless_forbidden():
    policy = Policy(rules={"masks": False, "seeds": True})
    assert [policy.allows(rule) for rule in ("masks", "seeds", "encode")] == [False, True, True]


def test_forward_rules_are_off_unless_asked_for():
    off = ("gated", "from_output", "quantized_gradient")
    assert not any(Policy().allows(rule) for rule in off)
    assert not Policy(rules={"from_output": False}).allows("from_output")
    assert Policy(rules={"from_output": True}).allows("from_output")
    assert Policy(rules={"quantized_gradient": {}}).allows("quantized_gradient")


@pytest.mark.parametrize(
    "given, asked", [({}, False), ({"few_bit": False}, False), ({"few_bit": True}, True)]
)
def test_asks(given, asked):
    policy = Policy(rules=given)
    assert policy.asks("few_bit") == asked
    assert policy.allows("few_bit") == (given != {"few_bit": False})


def test_without_asked():
    rules = {"gated": False, "few_bit": True, "from_output": True, "quantized_gradient": {}}
    plain = Policy("balanced", rules=rules).without_asked()
    assert plain == Policy("balanced", rules={"gated": False, "few_bit": True})
    assert plain.without_asked() == plain


def test_options_of_a_rule():
    policy = Policy(rules={"quantized_gradient": {"bits": 2}, "few_bit": True})
    assert policy.asks("quantized_gradient")
    assert policy.option("quantized_gradient", "bits", 3) == 2
    assert policy.option("quantized_gradient", "unbiased", False) is False
    assert policy.option("few_bit", "bits", 3) == 3
    assert Policy().option("few_bit", "bits", 4) == 4


# Each changes the compiled code, so each must change the key that it is cached under.
VARIANTS = [
    {"preset": "balanced"},
    {"preset": "balanced", "bits": 4},
    {"preset": "balanced", "group": 128},
    {"preset": "balanced", "rounding": "stochastic"},
    {"preset": "balanced", "min_bytes": 1},
    {"preset": "balanced", "budget": 0.5},
    {"preset": "balanced", "rules": {"masks": False}},
    {"preset": "balanced", "rules": {"masks": True}},
    {"preset": "balanced", "rules": {"quantized_gradient": True}},
    {"preset": "balanced", "rules": {"quantized_gradient": {"bits": 3}}},
    {"preset": "balanced", "rules": {"quantized_gradient": {"bits": 2}}},
]


def test_every_option_changes_the_key():
    assert len({Policy(**options).key() for options in VARIANTS}) == len(VARIANTS)


def test_key_does_not_depend_on_the_order_of_rules():
    one = Policy(rules={"masks": False, "seeds": False})
    other = Policy(rules={"seeds": False, "masks": False})
    assert one.key() == other.key()


def test_key_does_not_depend_on_the_order_of_options():
    one = Policy(rules={"quantized_gradient": {"bits": 3, "unbiased": True}})
    other = Policy(rules={"quantized_gradient": {"unbiased": True, "bits": 3}})
    assert one.key() == other.key()


def test_rules_are_copied():
    rules = {"masks": False, "few_bit": {"bits": 3}}
    policy = Policy(rules=rules)
    rules["masks"] = True
    rules["few_bit"]["bits"] = 8
    assert not policy.allows("masks")
    assert policy.option("few_bit", "bits", None) == 3


@pytest.mark.parametrize("options", VARIANTS)
def test_copies_are_equal(options):
    policy = Policy(**options)
    for twin in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert (twin, hash(twin), twin.key()) == (policy, hash(policy), policy.key())
