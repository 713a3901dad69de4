"""The loop that PyTorch's tutorials teach, on the report's network: the baseline of `make bench` and of its test.

Dataset and DataLoader, NCHW, ReLU then pool, Adam with its defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Images(Dataset[tuple[Tensor, int]]):
    """Images uint8 [n, 28, 28] and their classes, one at a time, as torchvision's ToTensor gives them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.images[place].unsqueeze(0).float().div(255), int(self.labels[place])


def network(classes: int, bn: bool) -> nn.Sequential:
    """Build the report's network, layer by layer as the report lists it."""

    def normalised(filters: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(filters)] if bn else []

    return nn.Sequential(
        nn.Conv2d(1, 16, 7, padding=3),
        *normalised(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 8, 5, padding=2),
        *normalised(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 3, stride=2, padding=1),
        *normalised(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


def train(
    data: Dataset[tuple[Tensor, int]],
    classes: int,
    bn: bool,
    seed: int,
    order: Sequence[int] | None = None,
    **form: Any,
) -> Tensor:
    """Train one epoch in batches of 20, in random order or in the one given; return the loss of each step.

    `form` is what `to` takes, for images of another `memory_format`, or for all in another `dtype`.
    """
    torch.manual_seed(seed)
    model = network(classes, bn).to(form.get("dtype", torch.float32))
    loader = DataLoader(data, batch_size=20, shuffle=order is None, sampler=order)
    optimizer = torch.optim.Adam(model.parameters())
    criterion = nn.CrossEntropyLoss()
    losses = []
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(images.to(**form)), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)
