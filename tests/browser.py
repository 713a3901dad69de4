"""A real browser for the tests of the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")

# Digits as one draws them: strokes of points, on a sheet of 280 by 280.
STROKES = {
    0: [[(140, 50), (95, 80), (85, 140), (95, 200), (140, 230), (185, 200), (195, 140), (185, 80), (140, 50)]],
    1: [[(140, 50), (140, 230)]],
    2: [[(90, 90), (110, 55), (160, 50), (185, 85), (170, 130), (90, 225), (195, 225)]],
    3: [[(90, 60), (150, 50), (180, 85), (130, 130), (185, 170), (165, 220), (90, 225)]],
    4: [[(110, 50), (90, 140), (190, 140)], [(170, 60), (165, 235)]],
    7: [[(85, 60), (190, 60), (130, 230)]],
}


@contextmanager
def opened() -> Iterator[Any]:
    """A browser, as Playwright has it; without one on this machine the test is skipped."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs a browser on the PATH: {', '.join(NAMES)}")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def show(browser: Any, file: Path, **options: Any) -> tuple[Any, list[str]]:
    """Open a file; return the page, and what it asks for from elsewhere or complains about, which grows."""
    page = browser.new_page(**options)
    problems: list[str] = []
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url))
    page.on("console", lambda message: message.type in ("error", "warning") and problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(file.as_uri())
    return page, problems


def draw(page: Any, strokes: list[list[tuple[int, int]]]) -> None:
    """Draw strokes on the sheet with the mouse."""
    page.click("#clear")
    page.locator("#drawing").scroll_into_view_if_needed()
    box = page.locator("#drawing").bounding_box()
    scale = box["width"] / 280
    for stroke in strokes:
        first, *rest = [(box["x"] + scale * x, box["y"] + scale * y) for x, y in stroke]
        page.mouse.move(*first)
        page.mouse.down()
        for point in rest:
            page.mouse.move(*point, steps=8)
        page.mouse.up()
    settle(page)


def settle(page: Any) -> None:
    """Wait until the page has shown what it was given."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def drawn(page: Any) -> bytes:
    """What is on the sheet, as PNG."""
    import base64

    return base64.b64decode(page.evaluate("canvas.toDataURL('image/png')").partition(",")[2])


def seen(page: Any) -> list[int]:
    """The image that the page's networks see: 784 grey levels."""
    return page.evaluate("Array.from(seen.getImageData(0, 0, 28, 28).data).filter((_, place) => place % 4 === 0)")
