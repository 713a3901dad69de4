"""A user's own picture of a digit, made into an image as MNIST has them."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from quartet.base.errors import InputError
from quartet.data.idx import SIDE

FORMATS = ("PNG", "JPEG")
MOST_BYTES = 50_000_000
MOST_PIXELS = 50_000_000
WORKING = 1000  # pixels of the longer side, to which larger pictures are reduced
SAMPLED = 100  # pixels a side, more or less, to which the light of the background is fitted
BOX = 20  # pixels of a digit's longer side in MNIST's images
CENTRE = 14  # the pixel of MNIST's images in which a digit's centre of mass lies
FAINT = 20  # grey levels of 255: what differs less from its background is not ink
NOISE = 3  # standard deviations of the background that are not ink
SPECK = 0.02  # of the largest part's ink: a part with less is dirt
PALE = 0.25  # of the darkest ink: paler than that is background, if the background is not clean
ALIKE, HEAVY = 0.6, 0.2  # of the largest part's height and ink: a part apart with more of both is another digit
EVERYWHERE = np.ones((3, 3), dtype=bool)  # pixels that touch at a corner belong together

Grey = NDArray[np.float64]


def read(path: Path) -> NDArray[np.uint8]:
    """Read a picture as grey levels uint8 [height, width]; InputError names the file if it cannot be one of a digit."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name a picture of a digit") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; expected a picture of a digit") from None
    return decode(content, str(path))


def decode(content: bytes, name: str) -> NDArray[np.uint8]:
    """Return what a PNG or JPEG file shows as grey levels uint8 [height, width]: turned as EXIF says, on white.

    InputError begins with `name` if the content is something else, animated, or larger than MOST_BYTES or MOST_PIXELS;
    nothing is decoded before that is known. Pictures of more than WORKING pixels a side are reduced.
    """
    if len(content) > MOST_BYTES:
        raise InputError(f"{name}: larger than {MOST_BYTES / 1e6:.0f} MB; scale the picture down")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(content), formats=FORMATS)
        with opened as picture:
            if math.prod(picture.size) > MOST_PIXELS:
                raise _too_large(name)
            if getattr(picture, "is_animated", False):
                raise InputError(f"{name}: expected one picture, found an animation; save one of its frames")
            return _grey(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name) from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: expected a picture as PNG or JPEG, found something else") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:  # Pillow has no class of its own for them
        raise InputError(f"{name}: a damaged picture: {error}; save it again") from None


def _too_large(name: str) -> InputError:
    most = f"{MOST_PIXELS / 1e6:.0f} million pixels"
    return InputError(f"{name}: expected at most {most}, found more; scale the picture down")


def _grey(picture: Image.Image) -> NDArray[np.uint8]:
    longer = max(picture.size)
    if picture.format == "JPEG" and longer > 2 * WORKING:
        picture.draft("L", (WORKING, WORKING))  # decoded at a half, a quarter or an eighth
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I") or upright.mode == "F":  # 16 bits, which Pillow would cut off at 255
        levels = np.asarray(upright, dtype=np.float64)
        return np.asarray(levels * (255 / 65535), dtype=np.uint8)
    if upright.has_transparency_data:
        opaque = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    grey = upright.convert("L")
    return np.asarray(grey.reduce(-(-max(grey.size) // WORKING)) if max(grey.size) > WORKING else grey)


def normalise(picture: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Make a picture uint8 [height, width] of one digit into an image uint8 [28, 28], by the recipe of MNIST's authors.

    The recipe (http://yann.lecun.com/exdb/mnist/): the digit fits a box of 20x20 pixels, its aspect kept, and its centre of
    mass is in the middle. Before that the background is removed; what is digit is the side that the border is not on.
    InputError begins with `name` if the picture is blank or shows several digits.
    """
    ink, floor = _ink(picture.astype(np.float64), name)
    return _placed(_scaled(_one_digit(ink, floor, name)))


def _ink(grey: Grey, name: str) -> tuple[Grey, float]:
    """Return how much ink is where, 0 to 255, and the least that is not noise."""
    height, width = grey.shape
    if min(height, width) < 3:
        raise InputError(f"{name}: expected a picture of a digit, found {width} × {height} pixels")
    frame = np.ones(grey.shape, dtype=bool)
    edge = max(1, min(height, width) // 25)
    frame[edge:-edge, edge:-edge] = False
    level = float(np.median(grey[frame]))
    clean = bool((grey == level).mean() > 1 / 2)
    ground, spread = (np.full(grey.shape, level), 0.0) if clean else _ground(grey, frame)
    rest = grey - ground
    if np.quantile(rest, 0.999) > -np.quantile(rest, 0.001):  # the digit is lighter
        ink = np.maximum(rest, 0)
    else:  # ink takes a share of the light away
        ink = np.maximum(-rest, 0) * (255 / np.maximum(ground, 1))
        spread *= 255 / max(level, 1)
    most = float(ink.max())
    if most < max(FAINT, 2 * NOISE * spread):
        raise InputError(f"{name}: blank: nothing on it differs from its background; write darker or come closer")
    if clean:
        return ink * (255 / most), 0.0
    dark = float(np.quantile(ink[ink > most / 2], 0.75))  # the darkest pixel may be noise
    return np.minimum(ink * (255 / dark), 255), max(NOISE * spread * 255 / dark, 255 * PALE)


def _ground(grey: Grey, frame: NDArray[np.bool_]) -> tuple[Grey, float]:
    """Fit the light of the background, as a surface of the second degree, to what is background: [height, width].

    At first that is the frame, then what is near the surface so far. Returns the spread of the background around it too.
    """
    y, x = np.meshgrid(*(np.linspace(-1, 1, count) for count in grey.shape), indexing="ij")
    surface = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
    step = max(1, max(grey.shape) // SAMPLED)
    some = (slice(step // 2, None, step),) * 2
    terms, values = surface[some].reshape(-1, surface.shape[-1]), grey[some].ravel()
    chosen = frame[some].ravel()
    for _ in range(5):
        fitted, *_ = np.linalg.lstsq(terms[chosen], values[chosen], rcond=None)
        rest = values - terms @ fitted
        spread = 1.4826 * float(np.median(np.abs(rest[chosen])))  # a normal distribution's, whatever lies beside it
        chosen = np.abs(rest) <= max(NOISE * spread, 1)
    return surface @ fitted, spread


def _one_digit(ink: Grey, floor: float, name: str) -> Grey:
    """Return the box [height, width] around the one digit, without dirt beside it."""
    parts, count = ndimage.label(ink > floor, structure=EVERYWHERE)
    amounts = ndimage.sum_labels(ink, parts, np.arange(1, count + 1))
    kept = 1 + np.flatnonzero(amounts >= SPECK * amounts.max())
    boxes = [ndimage.find_objects(parts)[part - 1] for part in kept]
    _refuse_several(boxes, amounts[kept - 1], name)
    shown = np.where(np.isin(parts, kept), ink, 0)
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    return np.asarray(shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _refuse_several(boxes: list[tuple[slice, slice]], amounts: Grey, name: str) -> None:
    """Raise InputError if a part lies apart from the largest, and is large enough to be a digit and not a stroke of one."""
    rows, columns = boxes[largest := int(amounts.argmax())]
    for (other_rows, other_columns), amount in zip(boxes, amounts, strict=True):
        apart = _gap(columns, other_columns) > 0 or _gap(rows, other_rows) > 0
        tall = other_rows.stop - other_rows.start > ALIKE * (rows.stop - rows.start)
        if apart and tall and amount > HEAVY * amounts[largest]:
            raise InputError(f"{name}: several digits; cut the picture so that it shows one")


def _gap(one: slice, other: slice) -> int:
    return int(max(one.start, other.start) - min(one.stop, other.stop))


def _scaled(digit: Grey) -> Grey:
    """Scale a digit so that its longer side has BOX pixels; each pixel is the mean of the area that it covers."""
    sizes = [max(1, round(size * BOX / max(digit.shape))) for size in digit.shape]
    down, across = (_areas(size, target) for size, target in zip(digit.shape, sizes, strict=True))
    return np.asarray(down @ digit @ across.T)


def _areas(size: int, target: int) -> Grey:
    """Return the share [target, size] that each pixel has in each pixel of a row that is scaled to `target` pixels."""
    edges = np.arange(target + 1) * (size / target)
    starts, pixels = edges[:-1, None], np.arange(size)
    ends = edges[1:, None]
    covered = np.minimum(ends, pixels + 1) - np.maximum(starts, pixels)
    return np.maximum(covered, 0) * (target / size)


def _placed(digit: Grey) -> NDArray[np.uint8]:
    """Put a digit into an image, its centre of mass as near to the middle as whole pixels and the edges allow."""
    image = np.zeros((SIDE, SIDE), dtype=np.uint8)
    corner = []
    for axis, size in enumerate(digit.shape):
        mass = digit.sum(axis=1 - axis)
        middle = float(mass @ np.arange(size) / mass.sum())
        corner.append(min(max(CENTRE - int(middle + 0.5), 0), SIDE - size))
    rows, columns = (slice(start, start + size) for start, size in zip(corner, digit.shape, strict=True))
    image[rows, columns] = np.floor(digit + 0.5)
    return image
