# SPDX-License-Identifier: Apache-2.0
"""How each page looks: axe finds nothing of WCAG 2.2 AA, nothing overlaps, and no window is too narrow.

``--all`` adds the dark theme.
"""

import pytest

from tests.console.browser.fixtures import Visitor
from tests.console.browser.pages import PAGES
from tests.console.browser.realm import DemoRealm
from tests.console.browser.visit import OVERLAPS, SCROLLS, find_violations

# CSS pixels of a window of 1280 x 800 at 200 % and at 400 % (WCAG 1.4.10), of a tablet and of two telephones.
WINDOWS = {
    "on a tablet": (768, 1024),
    "at 200 %": (640, 400),
    "at 400 %": (320, 256),
    "on a small telephone": (360, 740),
    "on a telephone": (390, 844),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Look at each page, in both themes with ``--all``."""
    themes = ("light", "dark") if metafunc.config.getoption("--all") else ("light",)
    if "theme" in metafunc.fixturenames:
        metafunc.parametrize("theme", themes)


def test_the_menu_has_no_page_that_is_not_looked_at(visitor: Visitor, realm: DemoRealm) -> None:
    """A new page must be added to ``PAGES``."""
    page = visitor().open("/console/now")
    links = {link.get_attribute("href") for link in page.get_by_role("navigation").get_by_role("link").all()}
    assert links - {place(realm.facts).partition("?")[0] for place in PAGES.values()} == set()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_readable(visitor: Visitor, realm: DemoRealm, axe: str, name: str, theme: str) -> None:
    """No violation that axe knows, at any width no scrolling to the side, and no control on another one."""
    page = visitor(color_scheme=theme).open(PAGES[name](realm.facts))
    faults = find_violations(page, axe)
    faults += [f"overlap: {one}" for one in page.evaluate(OVERLAPS)]
    for window, (width, height) in WINDOWS.items():
        page.set_viewport_size({"width": width, "height": height})
        if page.evaluate(SCROLLS):
            faults.append(f"wider than the window {window}")
        faults += [f"overlap {window}: {one}" for one in page.evaluate(OVERLAPS)]
    faults += [f"on a telephone: {one}" for one in find_violations(page, axe)]  # the last window: what scrolls there
    assert faults == []
