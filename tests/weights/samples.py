"""Small models and data for the tests of the weight manager."""

import torch
from torch import nn

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
PROTOTYPES = torch.randn(4, 16, generator=torch.Generator().manual_seed(8))


def model():
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10), nn.Linear(10, 4))


def weights(net):
    return [p.detach().clone() for p in net.parameters() if p.dim() > 1]


def run(net, x=X):
    net(x).square().sum().backward()


def batch(draw, size=64):
    """Four clusters in 16 dimensions, and which of them each row is from."""
    labels = torch.randint(4, (size,), generator=draw)
    return PROTOTYPES[labels] + 0.7 * torch.randn(size, 16, generator=draw), labels


def classifier():
    torch.manual_seed(0)
    layers = [nn.Linear(16, 64), nn.BatchNorm1d(64), nn.Hardtanh(), nn.Linear(64, 4)]
    return nn.Sequential(*layers, nn.BatchNorm1d(4))
