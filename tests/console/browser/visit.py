# SPDX-License-Identifier: Apache-2.0
"""A browser at the console, as one operator; what no operator should meet is a fault, and fails the test."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, ConsoleMessage, Page, expect

TIMEOUT_MS: Final = 60_000
WIDE: Final[Mapping[str, Any]] = {"viewport": {"width": 1280, "height": 860}}
RULES: Final = "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
SCROLLS: Final = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
# The names of controls that lie on each other.
OVERLAPS: Final = """() => {
  const seen = [...document.querySelectorAll('a, button, input, select, textarea, summary')]
    .filter(one => one.checkVisibility({visibilityProperty: true}) && !one.closest('svg') && one.tabIndex >= 0)
    .map(one => [one, one.getBoundingClientRect()])
    .filter(([, box]) => box.width > 1 && box.height > 1 && box.left >= 0);
  const name = one => (one.innerText || one.name || one.tagName).trim().slice(0, 40);
  const on = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  return seen.flatMap(([a, boxA], n) => seen.slice(n + 1)
    .filter(([b, boxB]) => !a.contains(b) && !b.contains(a) && on(boxA, boxB)).map(([b]) => `${name(a)} / ${name(b)}`));
}"""
VIOLATIONS: Final = """addEventListener('securitypolicyviolation',
  event => console.error(`CSP violation: ${event.violatedDirective} ${event.blockedURI}`))"""


class Visit:
    """A browser context, signed in as an operator.

    Args:
        browser: The browser.
        mint: The mint's URL.
        link: The link that signs the operator in; empty for a browser that is not signed in.
        view: Options of the context.

    Attributes:
        page: Its page.
        faults: What no operator should meet.
        expected: A pattern of messages of the browser that this journey brings about.
    """

    def __init__(self, browser: Browser, mint: str, link: str = "", **view: Any) -> None:
        self.mint, self.faults, self.expected = mint, list[str](), r"(?!)"
        self.context = browser.new_context(**{**WIDE, **view}, base_url=mint)
        self.context.set_default_timeout(TIMEOUT_MS)
        self.context.set_default_navigation_timeout(TIMEOUT_MS)
        if view.get("java_script_enabled", True):
            self.context.add_init_script(VIOLATIONS)
        self.page = self.context.new_page()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.faults.append(f"{self.page.url}: {error}"))
        if link:
            self.page.goto(link)
            self.page.get_by_role("button", name="Open the console").click()
            expect(self.page.get_by_role("navigation")).to_be_visible()

    def _note(self, line: ConsoleMessage) -> None:
        if line.type in ("error", "warning") and not re.search(self.expected, line.text):
            self.faults.append(f"{self.page.url}: {line.text}")

    def open(self, path: str) -> Page:
        """Open a page of the console."""
        self.page.goto(path)
        return self.page

    def close(self) -> list[str]:
        """Close it, and return its faults."""
        self.context.close()
        return self.faults


def find_violations(page: Page, axe: str) -> list[str]:
    """Return what axe finds on a page."""
    page.evaluate(axe)
    found = page.evaluate(RULES)["violations"]
    return [f"{fault['id']}: {fault['help']}: {node['html'][:160]}" for fault in found for node in fault["nodes"][:3]]


def axe_script() -> str:
    """Return the source of axe."""
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
