"""Binary networks for the test of their export; run as a module, it is what reads them back.

    python -m integer.networks FOLDER

computes, of each NAME.bits in the folder, NAME.outputs from `inputs`.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import fxmem
from fxmem.weights import Export


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.BatchNorm2d(16),
        nn.Flatten(),
        nn.Linear(16 * 16, 33),
        nn.BatchNorm1d(33),
        nn.Linear(33, 4),
    )


def ruled(model, method):
    """The graph that computes the inner layers in integers; of "real" the model itself."""
    if method == "real":
        return model
    graph = torch.fx.symbolic_trace(model)
    return fxmem.transform(graph, {"rules": {"integer": method}})


@torch.no_grad()
def main(folder):
    for file in folder.glob("*.bits"):
        method = file.stem.split("_")[0]
        model = Export.load(file).load_into(network(seed=1)).eval()
        run = ruled(model, method)
        torch.save(run(torch.load(folder / "inputs")), file.with_suffix(".outputs"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
