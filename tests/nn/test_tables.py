"""The user's own tables: FewBit's interface, its files, and their use by `bits`."""

import numpy as np
import pytest
import torch

from fxmem import functional
from fxmem.activations import store as shipped

X = torch.linspace(-4, 4, 801, dtype=torch.float64)


@pytest.fixture
def store():
    yield functional.store
    functional.store.clear()


def slopes(function, **options):
    leaf = X.clone().requires_grad_()
    function(leaf, **options).sum().backward()
    return leaf.grad


def test_add_and_get(store):
    before = slopes(functional.gelu, bits=1)
    store.add("gelu", 1, (torch.tensor([-100.0, 0.5, 100.0]), [0.25, 0.75]))
    found = slopes(functional.gelu, bits=1)
    assert torch.equal(found, torch.where(X <= 0.5, 0.25, 0.75).double())
    assert not torch.equal(found, before)
    borders, levels = store.get("gelu", 1)
    assert borders.tolist() == [-100, 0.5, 100] and levels.tolist() == [0.25, 0.75]
    assert levels.dtype == torch.float32 and len(store) == 1 and "gelu01" in repr(store)
    assert [key for key, _ in store.items()] == [("gelu", 1)]
    store.clear()
    assert torch.equal(slopes(functional.gelu, bits=1), before)


def test_shipped_tables(store):
    borders, levels = store.get("tanh", 2, dtype=torch.float64)
    table = shipped.levels("tanh", 2)
    assert borders.tolist() == [0, *table.borders, 100] and levels.tolist() == table.levels.tolist()
    with pytest.raises(KeyError, match="my_own"):
        store.get("my_own", 2)


def test_only_default_parameters_and_kinds(store):
    elu = slopes(functional.elu, alpha=1.7, bits=1), slopes(functional.elu, bits=1, unbiased=True)
    store.add("elu", 1, ([0.0], [0.25, 0.75]))
    torch.manual_seed(0)
    assert torch.equal(slopes(functional.elu, alpha=1.7, bits=1), elu[0])
    assert set(slopes(functional.elu, bits=1, unbiased=True).unique().tolist()) == set(
        elu[1].unique().tolist()
    )
    store.add("elu", 1, (None, [-0.5, 1.5]))
    assert set(slopes(functional.elu, bits=1, unbiased=True).tolist()) == {-0.5, 1.5}


def test_fewbits_files(store, tmp_path):
    """Keys, ends and dtypes as in FewBit's builtin.npz."""
    path = tmp_path / "fewbit.npz"
    np.savez(
        path,
        **{
            "silu02-borders": np.array([-100, -1.5, 0.25, 2, 100.0]),
            "silu02-levels": np.array([0, 0.25, 0.75, 1.0]),
        },
    )
    assert store.load(path) is store
    expected = torch.tensor([0, 0.25, 0.75, 1.0]).double()
    wanted = expected[torch.bucketize(X, torch.tensor([-1.5, 0.25, 2]).double())]
    assert torch.equal(slopes(functional.silu, bits=2), wanted)
    store.save(tmp_path / "ours.npz")
    with np.load(path) as theirs, np.load(tmp_path / "ours.npz") as ours:
        assert all(np.array_equal(theirs[key], ours[key]) for key in theirs)


BORDERS, LEVELS = np.array([-100.0, -1.5, 0.25, 2, 100]), np.array([0, 0.25, 0.75, 1.0])
WRONG = {
    "gelu02-borders must be a row of real numbers; got <U1": {"borders": np.array(list("abcde"))},
    "gelu02-borders must be 5 numbers, two more than": {"borders": BORDERS[1:]},
    "gelu02-levels has no gelu02-borders beside it": {"borders": None},
    "gelu02-levels must be a row of real numbers; got complex128": {"levels": LEVELS * 1j},
    r"gelu02-levels must be a row of real .* shape \[\]": {"levels": LEVELS[0]},
    r"gelu02-levels must be a row of real .* shape \[1, 4\]": {"levels": LEVELS[None]},
    "gelu02-error must be one real number": {"error": LEVELS},
    "gelu02: borders must ascend; got .*100.0, 2.0": {"borders": BORDERS[::-1]},
    "gelu02: borders must ascend; got .*nan": {"borders": BORDERS * [1, 1, np.nan, 1, 1]},
    "gelu02: levels must be .* got 4, not all of them finite": {"levels": LEVELS * np.nan},
    "gelu02: levels must be .* got 0": {"levels": LEVELS[:0], "borders": LEVELS[:0]},
    "gelu02: levels that are drawn must ascend": {"levels": LEVELS[::-1], "borders": LEVELS[:0]},
    "gelu01: 4 levels do not fit 1 bits": {"bits": "01"},
    "gelu00: bits must be 1 to 8; got 0": {"bits": "00"},
    "gelu99: bits must be 1 to 8; got 99": {"bits": "99"},
}


@pytest.mark.parametrize("words", WRONG)
def test_files_have_what_add_takes(store, tmp_path, words):
    parts = {"borders": BORDERS, "levels": LEVELS, **WRONG[words]}
    key = f"gelu{parts.pop('bits', '02')}"
    arrays = {f"{key}-{part}": value for part, value in parts.items() if value is not None}
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        store.load(tmp_path / "own.npz")
    assert not len(store)


def test_refusals(store):
    with pytest.raises(ValueError, match="3 levels do not fit 1 bits"):
        store.add("gelu", 1, ([0.0, 1.0], [0.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="borders must ascend"):
        store.add("gelu", 2, ([1.0, 0.0], [0.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="bits must be 1 to 8; got 9"):
        store.add("gelu", 9, ([0.0], [0.0, 1.0]))
    with pytest.raises(ValueError, match="the slope of gelu is not even"):
        store.add("gelu", 1, ([0.0, 1.0, 100.0], [0.0, 1.0]))
        functional.gelu(X, bits=1)
