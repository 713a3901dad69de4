"""Augmentation: each training image rotated, scaled and shifted at random."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate each image float32 [n, 1, 28, 28] by up to 10 degrees, scale it by up to 10% and shift it by up to 2 pixels.

    Returns new images in channels-last memory format, as `network.pixels` does.
    """
    angle, scale, shift_x, shift_y = torch.rand(4, len(images), 1, 1, generator=generator).mul_(2).sub_(1)
    angle, scale = angle * math.radians(10), 1 + scale * 0.1
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    side = images.shape[-1]
    middle = (side - 1) / 2
    x = torch.arange(side) - middle  # distance of each pixel from the middle of the image
    y = x.view(-1, 1)
    moved = sampled(images, cosine * x - sine * y + (2 * shift_x + middle), sine * x + cosine * y + (2 * shift_y + middle))
    return moved.contiguous(memory_format=torch.channels_last)


def sampled(images: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Return square images float32 [n, 1, s, s] at these places, float32 [n, s, s] in pixels, by bilinear interpolation.

    Outside an image is black. The same as `torch.nn.functional.grid_sample`, whose AVX2 code QEMU 7.2 emulates wrongly: its
    bytes cannot be compared between processors. Those of plain indexing agree.
    """
    side, width = images.shape[-1], images.shape[-1] + 3
    framed = functional.pad(images, (1, 2, 1, 2)).flatten()
    columns, rows = (columns + 1).clamp_(0, side + 1), (rows + 1).clamp_(0, side + 1)  # coordinates in the padded image
    left, top = columns.floor(), rows.floor()
    right_share, lower_share = (columns - left).flatten(), (rows - top).flatten()
    starts = torch.arange(len(images), dtype=torch.int32).mul_(width * width).view(-1, 1, 1)
    corner = ((top * width + left).to(torch.int32) + starts).flatten()
    upper, upper_right, lower, lower_right = (framed.index_select(0, corner + offset) for offset in (0, 1, width, width + 1))
    upper += (upper_right - upper) * right_share
    lower += (lower_right - lower) * right_share
    return (upper + (lower - upper) * lower_share).view(images.shape)
