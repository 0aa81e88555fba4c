"""The examples run, learn, and show what they say."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(name, **options):
    return runpy.run_path(str(EXAMPLES / name))["main"](**options)


def test_irevnet():
    first, last, kept = run("reversible_irevnet.py")
    assert last < first / 2
    assert kept["none", 4] > 2 * kept["none", 1]
    # Each block leaves the batch norms' statistics before their update, and nothing else.
    assert kept["reversible", 4] < 1.05 * kept["reversible", 1]


def test_reformer():
    first, last, kept, peaks = run("reversible_reformer.py")
    assert last < first - 1
    assert kept[6] == kept[2]
    assert peaks[8] < peaks[128]
