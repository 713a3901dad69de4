"""Pictures of digits in a font, and files of them."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = Path(mpl.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


def written(text="3", *, size=(300, 240), at=(100, 60), height=120, ink=0, paper=255):
    """Text in a font, as grey levels."""
    sheet = Image.new("L", size, paper)
    ImageDraw.Draw(sheet).text(at, text, fill=ink, font=ImageFont.truetype(str(FONT), height))
    return np.asarray(sheet)


def encoded(picture, form="PNG", **options):
    content = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(content, form, **options)
    return content.getvalue()
