"""Pictures of digits as a phone would take them, made from MNIST's images."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGER = 8  # times the size of an image
PAPER = 330  # pixels of the photo's shorter side


def photo(image: NDArray[np.uint8], number: int) -> bytes:
    """Draw an image uint8 [28, 28] as a photo: dark on light paper, larger, off centre, in uneven light, with noise. JPEG.

    `number` seeds all that is random.
    """
    random = np.random.default_rng(number)
    ink = Image.fromarray(image).resize((28 * LARGER, 28 * LARGER), Image.Resampling.BICUBIC)
    height, width = PAPER, PAPER * 4 // 3
    sheet = np.zeros((height, width))
    top, left = random.integers(0, height - ink.height), random.integers(0, width - ink.width)
    sheet[top : top + ink.height, left : left + ink.width] = np.asarray(ink, dtype=np.float64) / 255
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    tilt, bend = random.uniform(-0.15, 0.15, 2), random.uniform(-0.1, 0.05)
    light = random.uniform(150, 210) * (1 + tilt[0] * x + tilt[1] * y + bend * (x * x + y * y))
    taken = light * (1 - random.uniform(0.6, 0.9) * sheet) + random.normal(0, 5, sheet.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(taken, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=80)
    return file.getvalue()
