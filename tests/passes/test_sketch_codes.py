"""Sketches beside few-bit codes: only those inputs that a code leaves nothing to recompute from."""

import torch
from torch import nn

from .tools import partitioned

ROWS, WIDTH = 64, 16
CODES, SKETCH = {"few_bit": {"bits": 3}}, {"sketch": 0.25}


class Block(nn.Module):
    """A norm and an MLP, with a shortcut."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def planned(rules):
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Block())
    options = {"min_bytes": 0, "rules": rules}
    return partitioned(model, torch.randn(ROWS, WIDTH), policy=options).plan


def test_either_alone_changes_nothing():
    plain = planned({})
    assert planned(CODES).after == planned(SKETCH).after == plain.after
    assert not plain.sites


def test_together_they_leave_the_input_of_the_norm_alone():
    plain, plan = planned({}), planned(CODES | SKETCH)
    assert {site.rule: site.nbytes for site in plan.sites} == {
        "few_bit": ROWS * 4 * WIDTH * 3 // 8,
        "sketch": ROWS // 4 * 4 * WIDTH * 4,
    }
    # GELU's input is gone; the seed is new.
    saved = ROWS * 4 * WIDTH * 4 - sum(site.nbytes for site in plan.sites)
    assert plain.after - plan.after == saved - 8
    assert any("up: its input, or what it is recomputed from, is kept" in n for n in plan.notes)
