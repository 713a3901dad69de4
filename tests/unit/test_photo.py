from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pictures import encoded, written
from quartet.base.errors import InputError
from quartet.data import photo


def seen(picture):
    return photo.normalise(np.asarray(picture, dtype=np.uint8), "it")


def middle(image):
    """The centre of mass, by NumPy's average."""
    return [np.average(np.arange(28), weights=image.sum(axis=axis)) for axis in (1, 0)]


@pytest.mark.parametrize("digit", "0123456789")
def test_a_digit_has_mnists_size_and_place(digit):
    image = seen(written(digit))
    rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    assert all(13.5 - 0.1 <= place <= 14.5 + 0.1 for place in middle(image))  # grey levels are rounded after the centre is
    assert image.max() > 250


def test_an_image_of_mnists_stays_as_it_is():
    """Of its size and in its place already: light on dark, the longer side 20 pixels, the centre in the middle."""
    image = seen(written("5"))
    again = seen(image)
    assert np.abs(again.astype(int) - image * (255 / image.max())).max() <= 1


def test_dark_on_light_is_light_on_dark():
    assert (seen(written("4")) == seen(255 - written("4"))).all()


def test_where_it_is_and_how_large_does_not_matter():
    small, moved = written("2", height=60), written("2", height=60, at=(10, 150))
    assert (seen(small) == seen(moved)).all()
    large = written("2", size=(600, 480), at=(200, 120), height=120)
    assert np.abs(seen(large).astype(int) - seen(small)).mean() < 8  # the font draws other pixels at another size


def test_the_aspect_is_kept():
    sheet = np.full((200, 200), 255)
    sheet[50:150, 90:110] = 0
    image = seen(sheet)
    assert [len(np.flatnonzero(image.any(axis=axis))) for axis in (1, 0)] == [20, 4]
    assert image[image > 0].min() == 255


def test_the_area_filter_keeps_the_mean():
    """Each pixel is a mean, so nothing is lost or added, whatever the sizes."""
    random = np.random.default_rng(0)
    for size in [(20, 20), (33, 7), (7, 33), (1, 50), (400, 301)]:
        digit = random.uniform(0, 255, size)
        scaled = photo._scaled(digit)
        assert max(scaled.shape) == 20
        assert scaled.mean() == pytest.approx(digit.mean())


def light(shape):
    y, x = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    return 1 + 0.15 * x - 0.2 * y - 0.1 * (x * x + y * y)


def test_uneven_light_and_noise_change_little():
    sheet = written("7", ink=60)
    lit = np.clip(sheet * light(sheet.shape) * 0.8 + np.random.default_rng(0).normal(0, 4, sheet.shape), 0, 255)
    difference = np.abs(seen(lit).astype(int) - seen(sheet))
    assert difference.mean() < 3


def test_on_a_clean_background_nothing_is_removed():
    """The faintest grey at the edge of a stroke is kept."""
    sheet = np.full((40, 40), 255)
    sheet[10:30, 15:25] = 0
    sheet[10:30, 25] = 254
    image = seen(sheet)
    assert sorted(set(image[image > 0].tolist())) == [1, 255]


def test_dirt_is_left_out():
    sheet = written("6").copy()
    clean = seen(sheet)
    sheet[5:9, 5:9] = 0
    assert (seen(sheet) == clean).all()


def test_a_digit_in_two_strokes_is_one():
    """A five whose bar does not touch it."""
    sheet = np.full((200, 200), 255)
    sheet[40:52, 90:140] = 0
    sheet[60:150, 80:95] = 0
    sheet[100:112, 80:130] = 0
    sheet[100:150, 120:132] = 0
    assert seen(sheet).any()


@pytest.mark.parametrize(
    ("picture", "problem"),
    [
        (np.full((50, 50), 255), "blank"),
        (np.zeros((50, 50)), "blank"),
        (written(ink=245), "blank"),
        (np.random.default_rng(0).normal(200, 6, (200, 200)), "blank"),
        (200 * light((200, 200)), "blank"),
        (written("38", at=(60, 60)), "several digits"),
        (written("1 1"), "several digits"),
        (written("4", at=(20, 10), height=60) & written("7", at=(200, 160), height=60), "several digits"),
        (np.full((2, 50), 255), "expected a picture of a digit, found 50 × 2 pixels"),
    ],
    ids=range(9),
)
def test_what_shows_no_single_digit_is_refused(picture, problem):
    with pytest.raises(InputError, match=f"^it: {problem}"):
        seen(picture)


def test_exif_turns_a_picture():
    picture = Image.fromarray(written("7"))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    found = photo.decode(encoded(turned, "JPEG", quality=100, exif=exif), "it")
    assert found.shape == (240, 300)
    assert np.abs(seen(found).astype(int) - seen(written("7"))).mean() < 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_white(mode):
    """What is below is black, which nobody sees."""
    alpha = Image.fromarray(255 - written("9"))
    picture = Image.new("RGBA", alpha.size, "black")
    picture.putalpha(alpha)
    found = photo.decode(encoded(picture.convert(mode)), "it")
    assert np.abs(found.astype(int) - written("9")).max() <= (255 if mode == "P" else 1)
    assert found[0, 0] == 255


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "YCbCr"])
def test_every_kind_of_colour_is_read(mode):
    form = "PNG" if mode in ("1", "L", "RGB") else "JPEG"
    found = photo.decode(encoded(Image.fromarray(written("8")).convert(mode), form), "it")
    assert np.abs(found.astype(int) - written("8")).mean() < 3


def test_sixteen_bits_are_scaled_to_eight():
    deep = written("8").astype(np.uint16) * 257
    assert (photo.decode(encoded(Image.fromarray(deep)), "it") == written("8")).all()


def test_a_large_picture_is_reduced():
    large = Image.fromarray(written("3")).resize((4800, 3840), Image.Resampling.NEAREST)
    for form in ("PNG", "JPEG"):
        found = photo.decode(encoded(large, form), "it")
        assert max(found.shape) <= photo.WORKING
        assert np.abs(seen(found).astype(int) - seen(written("3"))).mean() < 4


def bomb(width, height):
    """A PNG whose header promises that many pixels, and which holds none."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def animation():
    frames = [Image.fromarray(written(text)) for text in "12"]
    return encoded(frames[0], save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "expected a picture as PNG or JPEG, found something else"),
        (b"%PDF-1.7", "expected a picture as PNG or JPEG, found something else"),
        (encoded(written(), "GIF"), "expected a picture as PNG or JPEG, found something else"),
        (encoded(written())[:400], "a damaged picture: "),
        (encoded(written(), "JPEG")[:400], "a damaged picture: "),
        (bomb(10_000, 10_000), "expected at most 50 million pixels, found more"),
        (bomb(100_000, 100_000), "expected at most 50 million pixels, found more"),
        (bomb(8_000, 8_000), "expected at most 50 million pixels, found more"),
        (bomb(20, 20), "a damaged picture: "),
        (animation(), "expected one picture, found an animation"),
        (bytes(photo.MOST_BYTES + 1), "larger than 50 MB"),
    ],
    ids=range(11),
)
def test_what_is_no_picture_is_refused(content, problem):
    with pytest.raises(InputError, match=f"^it: {problem}"):
        photo.decode(content, "it")


def test_a_file_that_is_not_there_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        photo.read(tmp_path / "none.png")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        photo.read(tmp_path)
