"""i-RevNet (Jacobsen et al. 2018): a convolutional network of which no activation is kept.

Stages are joined by squeezes, which move space to depth: 2 x 2 pixels become 4 channels, nothing is
lost, and so the down-sampling is undone like any other step. Of the whole chain, whatever its
depth, only the last state is kept. `python examples/reversible_irevnet.py`
"""

import torch
from torch import nn
from torch.nn import functional

from fxmem.measure import kept
from fxmem.nn.reversible import AdditiveCoupling, Bijection, ReversibleSequential

SQUEEZE = Bijection(
    lambda x: functional.pixel_unshuffle(x, 2), lambda x: functional.pixel_shuffle(x, 2)
)


def bottleneck(channels):
    """Batch norm, ReLU and convolution, twice."""
    layers = []
    for _ in range(2):
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
    return nn.Sequential(*layers)


class IRevNet(nn.Module):
    """Stages of reversible blocks, a squeeze before each; then the mean over space, and a head.

    Images are [N, 2 · channels, H, W], with H and W multiples of 2 ** len(stages).
    """

    def __init__(self, channels, stages, classes, memory="reversible"):
        super().__init__()
        blocks, couplings = [], []
        for depth in stages:
            channels *= 4
            blocks += [nn.Identity(), *(bottleneck(channels) for _ in range(depth))]
            couplings += [SQUEEZE, *[AdditiveCoupling()] * depth]
        self.chain = ReversibleSequential(*blocks, coupling=couplings, memory=memory)
        self.head = nn.Linear(2 * channels, classes)

    def forward(self, images):
        return self.head(self.chain(images).relu().mean((2, 3)))


def striped(count, size):
    """Images of stripes that lie or stand, and which of the two it is."""
    label = torch.randint(2, (count,))
    wave = torch.sin(torch.arange(size) * 1.5).expand(size, size)
    clean = torch.where(label[:, None, None] == 0, wave, wave.T)
    return clean[:, None].expand(-1, 2, -1, -1) + 0.5 * torch.randn(count, 2, size, size), label


def main(steps=12, size=16):
    """Train a little; return the first and last loss, and the bytes that three depths keep."""
    torch.manual_seed(0)
    model = IRevNet(channels=1, stages=(2, 2), classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        images, label = striped(16, size)
        loss = functional.cross_entropy(model(images), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = {}
    for depth in (1, 2, 4):
        for memory in ("none", "reversible"):
            deep = IRevNet(1, (depth, depth), 2, memory)
            found[memory, depth] = kept(lambda m=deep, x=images: m(x)).nbytes
    return losses[0], losses[-1], found


if __name__ == "__main__":
    first, last, found = main()
    print(f"loss {first:.3f} -> {last:.3f}")
    for (memory, depth), nbytes in found.items():
        print(f"{2 * depth} blocks, memory={memory!r}: {nbytes / 1024:.0f} KiB kept")
