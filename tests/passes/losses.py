"""Spellings of a linear layer's cross-entropy, for tests."""

import torch
import torch.nn.functional as F
from torch import nn

CLASSES, WIDTH = 40, 8


class Head(nn.Module):
    """Two heads and two losses, and the spelling that uses some of them."""

    def __init__(self, spelling):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.bare = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES, bias=False)
        self.loss = nn.CrossEntropyLoss(torch.linspace(0.5, 2, CLASSES), reduction="sum")
        self.spelling = spelling

    def forward(self, x, labels):
        return self.spelling(self, x, labels)


def sample():
    torch.manual_seed(1)
    labels = torch.randint(CLASSES, (2, 16))
    labels[0, 3] = -100
    return torch.randn(2, 16, WIDTH, requires_grad=True), labels


def transformers(self, x, labels):
    logits = self.bare(x[:, slice(0, None), :]).float()
    labels = F.pad(labels, (0, 1), value=-100)[..., 1:].contiguous()
    flat = labels.view(-1).to(logits.device)
    return F.cross_entropy(logits.view(-1, CLASSES), flat, ignore_index=-100, reduction="mean")


def shifted(self, x, labels):
    logits = self.head(x)[..., :-1, :].contiguous()
    return F.cross_entropy(logits.view(-1, CLASSES), labels[..., 1:].contiguous().view(-1))


def flattened(self, x, labels):
    return F.cross_entropy(self.head(x)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def by_module(self, x, labels):
    return self.loss(self.head(x).flatten(0, 1), labels.flatten())


def logarithms(self, x, labels):
    return F.nll_loss(F.log_softmax(self.head(x).view(-1, CLASSES), -1), labels.view(-1))


def product(self, x, labels):
    logits = (x @ self.bare.weight.t()).reshape(-1, CLASSES)
    return F.cross_entropy(logits, labels.view(-1), reduction="sum")


def classes_in_the_middle(self, x, labels):
    return F.cross_entropy(self.head(x).transpose(1, 2), labels)


def permuted(self, x, labels):
    return F.cross_entropy(self.head(x).permute(0, 2, 1), labels, reduction="none").mean()


def time_first(self, x, labels):
    """What the layer makes is [tokens, batch, classes], the labels are [batch, tokens]."""
    return F.cross_entropy(self.head(x.transpose(0, 1)).permute(1, 2, 0), labels)


def time_first_in_steps(self, x, labels):
    logits = self.bare(x.transpose(0, 1)).transpose(0, 1).contiguous()
    return F.cross_entropy(torch.reshape(logits, shape=(-1, CLASSES)), labels.view(-1))


def z_loss_in_the_middle(self, x, labels):
    logits = self.head(x).transpose(1, 2)
    return F.cross_entropy(logits, labels) + logits.logsumexp(1).square().mean() * 0.1


def smoothed(self, x, labels):
    flat = self.head(x).view(-1, CLASSES)
    return F.cross_entropy(flat, labels.view(-1), label_smoothing=0.1)


def last_token(self, x, labels):
    return F.cross_entropy(self.head(x)[:, -1], labels[:, -1])


def z_loss(self, x, labels):
    logits = self.head(x).float()
    loss = F.cross_entropy(logits.view(-1, CLASSES), labels.view(-1))
    return loss + 1e-2 * torch.logsumexp(logits, -1).square().mean()


def z_loss_in_place(self, x, labels):
    logits = self.head(x).view(-1, CLASSES)
    loss = F.cross_entropy(logits, labels.view(-1), reduction="sum")
    loss += (logits.logsumexp(dim=-1) ** 2 * 0.5).sum() * 0.1
    return loss


ALL = (
    *(z_loss, z_loss_in_place),
    *(transformers, shifted, flattened, by_module, logarithms, product),
    *(classes_in_the_middle, permuted, smoothed, last_token),
    *(time_first, time_first_in_steps, z_loss_in_the_middle),
)
# What make_fx has taken apart: the loss of images, and that with smoothing.
# And the square of log-sum-exp, which was taken apart with its derivative.
NOT_IN_ATEN = (classes_in_the_middle, permuted, smoothed, z_loss_in_place)
NOT_IN_ATEN += (time_first, z_loss_in_the_middle)
