# SPDX-License-Identifier: Apache-2.0
"""Pictures of each page: wide, light ones in ``docs/console``, dark and narrow ones in ``build/console/pictures``."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.console.browser.__main__ import BUILD
from tests.console.browser.fixtures import Visitor
from tests.console.browser.pages import PAGES
from tests.console.browser.realm import DemoRealm
from tests.routes.environments import ROOT

DOCS = ROOT / "docs" / "console"
MAX_BYTES = 150_000
MAX_HEIGHT = 1300
VIEWS = {
    "": {"viewport": {"width": 1280, "height": 800}},
    "-dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "-narrow": {"viewport": {"width": 360, "height": 740}},
}


def save(raw: bytes, file: Path) -> None:
    """Write a picture with few colours."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(raw)).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, MAX_HEIGHT)))
    for colors in (128, 64, 32, 16):
        made = io.BytesIO()
        image.quantize(colors, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
        if len(made.getvalue()) <= MAX_BYTES:
            break
    file.write_bytes(made.getvalue())


@pytest.mark.parametrize("view", VIEWS)
def test_pictures(visitor: Visitor, realm: DemoRealm, view: str) -> None:
    """Take them."""
    visit = visitor(**VIEWS[view])
    for name, place in PAGES.items():
        page = visit.open(place(realm.facts))
        folder = BUILD / "pictures" if view else DOCS
        save(page.screenshot(full_page=True), folder / f"{name}{view}.png")
