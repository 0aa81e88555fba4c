"""The key of the compile cache: every option and every source is in it."""

import copy
import pickle

import pytest

from fxmem import Policy, partitioner
from fxmem.partitioner import Partitioner

BASE = {"preset": "balanced"}
CHANGES = [
    {"preset": "compact"},
    {"bits": 4},
    {"group": 128},
    {"rounding": "stochastic"},
    {"min_bytes": 1},
    {"budget": 0.5},
    *({"rules": {rule: False}} for rule in ("seeds", "remat", "discrete", "masks", "encode")),
]


def uuid(**options):
    return Partitioner(Policy(**options)).uuid()


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_option_changes_it(change):
    assert uuid(**{**BASE, **change}) != uuid(**BASE)


def test_equal_policies_share_it():
    assert uuid(**BASE) == uuid(preset="balanced", rules={})


def test_native_library_changes_it(monkeypatch):
    before = uuid()
    monkeypatch.setattr(partitioner.ops, "native_version", lambda: "another build")
    assert uuid() != before


def test_sources_change_it(monkeypatch, tmp_path):
    package = tmp_path / "fxmem"
    (package / "passes").mkdir(parents=True)
    monkeypatch.setattr(partitioner, "__file__", str(package / "partitioner.py"))

    def uuid_with(text):
        (package / "passes" / "rule.py").write_text(text)
        partitioner._sources_hash.cache_clear()
        partitioner.get_hash_for_files.cache_clear()
        return uuid()

    try:
        assert uuid_with("a = 1") == uuid_with("a = 1") != uuid_with("a = 2")
    finally:
        partitioner._sources_hash.cache_clear()


def test_it_is_what_inductor_can_hash():
    assert pickle.loads(pickle.dumps(uuid(**BASE))) == uuid(**BASE)


def test_partitioner_survives_inductors_handling_of_its_configuration():
    # Inductor copies its configuration deeply, and pickles it for the cache and for subprocesses.
    made = Partitioner(Policy(**BASE))
    assert copy.deepcopy({"custom_partitioner_fn": made})["custom_partitioner_fn"] is made
    assert pickle.loads(pickle.dumps(made)).uuid() == made.uuid()
