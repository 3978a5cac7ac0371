"""Workers' shares of a batch, and the gradients that they compute."""

import copy

import pytest
import torch
from torch import nn

from slimctl.jobs.training.objective import Share

BATCH = 8


class Student(nn.Module):
    """A small network that follows labels and remembers how it was called."""

    def __init__(self, classes=0):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.classes = nn.Embedding(classes, 1) if classes else None
        self.calls = []

    def forward(self, xt, t, label):
        self.calls.append((xt.detach(), t, label))
        out = self.conv(xt) * (1 + t.view(-1, 1, 1, 1))
        if self.classes is not None:
            out = out + self.classes(label).view(-1, 1, 1, 1)
        return out


@pytest.fixture
def make_student():
    """A network with random weights, told labels if there are classes."""

    def make(classes=0, seed=0):
        torch.manual_seed(seed)
        return Student(classes)

    return make


@pytest.fixture
def share():
    """`share(rank, workers)` of a batch of 8."""

    def make(rank=0, workers=1):
        size = BATCH // workers
        return Share(rank * size, size, BATCH, torch.device("cpu"))

    return make


@pytest.fixture
def gradient(share):
    """Mean over all workers of the gradient of an objective, as Ray Train's workers take it."""

    def mean(objective, network, step, workers):
        parts = []
        for rank in range(workers):
            worker = copy.deepcopy(objective)
            worker.prepare(share(rank, workers))
            network.zero_grad()
            worker.loss(network, step).backward()
            parts.append([weight.grad.clone() for weight in network.parameters()])
        return [torch.stack(grads).mean(0) for grads in zip(*parts, strict=True)]

    return mean
