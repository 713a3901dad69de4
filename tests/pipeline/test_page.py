"""The page in a real browser: its networks, its canvas, and what one can click on."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import browser as real
from browser import STROKES, draw, drawn, opened, seen, settle, show
from project import Project
from quartet.base import params, paths
from quartet.data import photo, splits
from quartet.evaluation import predictions, recognition
from quartet.model import inference

# One worker runs all that shares this copy of the finished project.
pytestmark = pytest.mark.xdist_group("finished copy")

BATCH = 500  # images that the page gets at once
MOST = int(os.environ.get("QUARTET_IMAGES", "100"))  # test images that the page reads: all of MNIST's take minutes


@pytest.fixture(scope="module")
def browser():
    with opened() as found:
        yield found


@pytest.fixture(scope="module")
def project(request):
    """The finished project as the working folder, or the one that QUARTET_FINISHED names."""
    named = os.environ.get("QUARTET_FINISHED")
    project = Project(Path(named), Path.home()) if named else request.getfixturevalue("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        yield project


@pytest.fixture(scope="module")
def page(browser, project):
    """The page of a finished run, which asks for nothing and complains about nothing, whatever the tests do."""
    found, problems = show(browser, project.root / paths.PAGE, viewport={"width": 1200, "height": 900})
    yield found
    assert problems == []


def test_the_networks_of_the_page_are_those_of_pytorch(page):
    """All models: the same logits within 1e-4, and the same answers."""
    images = splits.load_split("test").images
    images = images[:: -(-len(images) // MOST)]
    for name, model in recognition.load(params.load().trainings).items():
        expected = inference.predict(model.network, torch.from_numpy(images)).numpy()
        found = []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH].reshape(-1, 784).tolist()
            script = "([name, images]) => images.map((image) => logits(data.models[name], image))"
            found += page.evaluate(script, [name, batch])
        assert np.abs(np.array(found) - expected).max() < 1e-4
        assert (np.argmax(found, axis=1) == expected.argmax(axis=1)).all()


@pytest.mark.parametrize("digit", STROKES)
def test_the_page_sees_what_predict_sees(page, digit):
    """For the canvas's own pixels; and says what PyTorch says about it."""
    draw(page, STROKES[digit])
    expected = photo.normalise(photo.decode(drawn(page), "canvas"), "canvas")
    found = np.array(seen(page)).reshape(28, 28)
    assert np.abs(found - expected.astype(int)).max() <= 1
    models = recognition.load(params.load().trainings)
    (answer,) = recognition.answers(recognition.readers(models), recognition.best(models), expected[None])
    shown = {name: page.text_content(f'tr[data-model="{name}"] .answer') for name in models}
    assert shown == {name: said["class"] for name, said in answer["variants"].items()}
    assert page.text_content("#answer") == f"{recognition.best(models)} reads {answer['digit']}."
    if models[params.TRIAL].training.source.data == "mnist":  # the sample's models are right about most of its own images
        assert answer["digit"] == digit


def test_nothing_and_several_digits_are_told(page):
    page.click("#clear")
    assert page.text_content("#answer") == "Nothing is drawn yet."
    draw(page, [[(40, 60), (40, 220)], [(220, 60), (220, 220)]])
    assert page.text_content("#answer") == "Several digits: draw one."


def test_a_digit_is_drawn_by_keyboard(page):
    page.click("#clear")
    page.focus("#drawing")
    page.keyboard.press(" ")
    for _ in range(20):
        page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    page.keyboard.press("ArrowRight")
    settle(page)
    image = np.array(seen(page)).reshape(28, 28)
    assert len(np.flatnonzero(image.any(axis=1))) == 20
    assert len(np.flatnonzero(image.any(axis=0))) <= 4


def test_a_cell_shows_its_images(page):
    results = predictions.read(params.load().trainings)
    for name, result in results.items():
        matrix = page.locator(f'[data-matrix="{name}"]')
        matrix.evaluate("(it) => { it.open = true }")
        wrong = np.flatnonzero(~result.correct)
        for place in wrong[:3]:
            actual, predicted = result.labels[place], result.predicted[place]
            matrix.locator(f'[data-cell="{actual},{predicted}"]').click()
            titles = matrix.locator(".tile").evaluate_all("(tiles) => tiles.map((tile) => tile.title)")
            here = np.flatnonzero((result.labels == actual) & (result.predicted == predicted))
            assert titles == [f"test image {number}: {result.digits[number]}" for number in here]


def test_a_tile_shows_its_image(page):
    """As the browser paints it: the one whose number it has."""
    images = splits.load_split("test").images
    matrix = page.locator("[data-matrix]").first
    matrix.locator("button").last.click()
    tile = matrix.locator(".tile").last
    number = int(re.search(r"\d+", tile.get_attribute("title"))[0])
    tile.evaluate("(it) => { it.style.cssText += '; --tile: 28px; position: fixed; left: 0; top: 0' }")
    shown = photo.decode(tile.screenshot(), "tile")
    assert np.abs(shown.astype(int) - images[number]).max() <= 2  # the browser may convert colours


def test_an_epoch_shows_its_values(page):
    chart = page.locator(".chart").first
    epoch = chart.locator("[data-values]").last
    assert re.match(r"epoch \d+: ten, training \d\.\d{4}, ", epoch.get_attribute("data-values"))
    for act in (epoch.hover, epoch.focus):
        page.mouse.move(0, 0)
        act()
        assert chart.locator("output").text_content() == epoch.get_attribute("data-values")


def contrast(page, element: str) -> float:
    """The contrast of an element's text with what is behind it (WCAG 2.1)."""
    colours = page.eval_on_selector(
        element,
        """(it) => {
          const colour = getComputedStyle(it).color;
          for (let at = it; at; at = at.parentElement) {
            const behind = getComputedStyle(at).backgroundColor;
            if (behind !== "rgba(0, 0, 0, 0)") return [colour, behind];
          }
          return [colour, "rgb(255, 255, 255)"];
        }""",
    )

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_and_can_be_read(browser, project, scheme, width):
    found, problems = show(browser, project.root / paths.PAGE, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert found.evaluate("document.documentElement.scrollWidth") <= width
    for element in ("h1", ".quiet", "strong", "td", "button", "figcaption", "summary"):
        assert contrast(found, element) >= 4.5
    assert problems == []
    found.close()


def test_a_finger_draws(browser, project):
    found, problems = show(
        browser, project.root / paths.PAGE, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    found.locator("#drawing").tap()  # waits until the sheet has scrolled into view and lies still
    settle(found)
    assert max(seen(found)) == 255
    assert problems == []
    found.close()


def test_the_page_is_one_small_file_that_is_always_the_same(project):
    content = (project.root / paths.PAGE).read_bytes()
    assert len(content) < 1_500_000
    project.stage("page")
    assert (project.root / paths.PAGE).read_bytes() == content
    text = content.decode()
    assert not re.search(r"""(?:src|href)=(?!["']?data:)|url\((?!data:)|@import|https?://""", text)
    title = splits.load_source().title
    assert title in text.partition("<h2>")[0]


def test_without_a_browser_the_tests_say_so(monkeypatch):
    monkeypatch.setattr(real, "NAMES", ("no-such-browser",))
    with pytest.raises(pytest.skip.Exception, match="needs a browser on the PATH: no-such-browser"), opened():
        pass
