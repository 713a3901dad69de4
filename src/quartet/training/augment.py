"""Augmentation: each training image rotated, scaled, shifted and bent at random."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

CONTROL = 6  # points of an elastic field along each side


def augmented(
    images: Tensor,
    generator: torch.Generator,
    *,
    rotation: float = 10,
    scaling: float = 0.1,
    shift: float = 2,
    elastic: float = 0,
) -> Tensor:
    """Change each image float32 [n, 1, 28, 28] at random.

    It is rotated by up to `rotation` degrees, scaled by up to the share `scaling`, and shifted by up to `shift` pixels along
    each axis. Then a smooth field moves each pixel by up to `elastic` pixels along each axis.

    Returns new images in channels-last memory format, as `network.pixels` does.
    """
    angle, scale, shift_x, shift_y = torch.rand(4, len(images), 1, 1, generator=generator).mul_(2).sub_(1)
    angle, scale = angle * math.radians(rotation), 1 + scale * scaling
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    side = images.shape[-1]
    middle = (side - 1) / 2
    x = torch.arange(side) - middle  # distance of each pixel from the middle of the image
    y = x.view(-1, 1)
    columns = cosine * x - sine * y + (shift * shift_x + middle)
    rows = sine * x + cosine * y + (shift * shift_y + middle)
    if elastic:
        bent_x, bent_y = bent(len(images), side, generator) * elastic
        columns, rows = columns + bent_x, rows + bent_y
    return sampled(images, columns, rows).contiguous(memory_format=torch.channels_last)


def bent(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw smooth fields float32 [2, count, side, side] within -1 and 1: cubic B-splines of random values at CONTROL points.

    As free-form deformation has it (Rueckert and others, 1999, https://doi.org/10.1109/42.796284).
    """
    values = torch.rand(2, count, CONTROL, CONTROL, generator=generator).mul_(2).sub_(1)
    spline = splines(side)
    return spline @ values @ spline.T


def splines(side: int) -> Tensor:
    """Return each control point's share of each pixel, float32 [side, CONTROL]: each row sums to 1."""
    places = torch.linspace(1, CONTROL - 2, side).view(-1, 1)
    far = (places - torch.arange(CONTROL)).abs()
    near = 2 / 3 - far**2 + far**3 / 2
    return torch.where(far < 1, near, (2 - far).clamp_(min=0) ** 3 / 6)


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
