# SPDX-License-Identifier: Apache-2.0
"""Visit the pages as people do, in Chromium; this runs in an environment with Playwright, and imports nothing of ARx.

Standard input is a JSON object: ``mint``, ``issuer`` and ``program``, the URLs of what runs; ``chromium``; ``axe``, a
script; ``shots``, a folder; ``person`` with its ``password``; and ``pages``, the URLs at which the journeys begin, by
name.  Each fault is a line of the output.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

VIEWS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1200, "height": 800}},
    "wide-dark": {"viewport": {"width": 1200, "height": 800}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
    "narrow-dark": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "color_scheme": "dark"},
    # What a browser does at 200 %: half as many CSS pixels, each twice as large.
    "zoom": {"viewport": {"width": 640, "height": 400}, "device_scale_factor": 2},
    "no-scripts": {"viewport": {"width": 1200, "height": 800}, "java_script_enabled": False},
}
SCROLLS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
OUTLINE = "getComputedStyle(document.activeElement).outlineStyle"
RULES = "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice']})"
REACHED = "document.activeElement.name + '=' + document.activeElement.value"
MAX_TABS = 10


class Visit:
    """One view of the pages.

    Args:
        browser: The browser.
        plan: What runs.
        view: The view's name.
    """

    def __init__(self, browser: Browser, plan: dict[str, Any], view: str) -> None:
        self.plan, self.view, self.faults = plan, view, list[str]()
        self.context = browser.new_context(**VIEWS[view])
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.page.on("console", lambda line: self.note(line.text) if line.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.note(str(error)))

    def note(self, text: str) -> None:
        """Note a fault of the mint's pages; a refused form is answered with 400, which Chromium writes as an error."""
        if self.page.url.startswith(self.plan["mint"]) and "400 (Bad Request)" not in text:
            self.faults.append(f"{self.view}: {self.page.url.partition('?')[0]}: {text}")

    def open(self, name: str) -> Page:
        """Open one of the pages; a person who has not logged in does."""
        self.page.goto(self.plan["pages"][name])
        if self.page.url.startswith(self.plan["issuer"]):
            self.page.locator("[name=username]").fill(self.plan["person"])
            self.page.locator("[name=password]").fill(self.plan["password"])
            self.page.locator("[name=password]").press("Enter")
            self.page.wait_for_url(f"{self.plan['mint']}/**")
        return self.page

    def look(self, name: str) -> None:
        """Take a picture, and look for what no person should meet."""
        self.page.screenshot(path=Path(self.plan["shots"]) / f"{name}-{self.view}.png", full_page=True)
        if self.view == "no-scripts":
            return
        if self.page.evaluate(SCROLLS):
            self.faults.append(f"{self.view}: {name}: wider than the window")
        self.page.evaluate(Path(self.plan["axe"]).read_text())
        for fault in self.page.evaluate(RULES)["violations"]:
            self.faults.append(f"{self.view}: {name}: {fault['help']}: {fault['nodes'][0]['html'][:200]}")

    def press(self, button: str) -> None:
        """Press a button that leads back to the program."""
        self.page.get_by_role("button", name=button).click()
        self.require_back()

    def require_back(self) -> None:
        """Require that the browser is at the program."""
        self.page.wait_for_url(f"{self.plan['program']}/**")

    def tab_to(self, name: str) -> None:
        """Go to a control by keyboard alone, and require that each control on the way shows that it is reached."""
        for _ in range(MAX_TABS):
            self.page.keyboard.press("Tab")
            if self.page.evaluate(OUTLINE) == "none":
                self.faults.append(f"{self.view}: a control does not show that it is reached")
            if self.page.evaluate(REACHED) == name:
                return
        self.faults.append(f"{self.view}: {name} cannot be reached by keyboard")


def journeys(visit: Visit) -> None:
    """Allow, write, refuse and go wrong."""
    page = visit.open("short")
    visit.look("short")
    page.locator("input[type=text], input:not([type])").first.fill("much too long for the policy")
    page.get_by_role("button", name="Allow").click()
    expect(page.get_by_role("alert")).to_be_visible()
    visit.look("refused")
    page.locator("input[type=text], input:not([type])").first.fill("o-1")
    visit.press("Allow")
    visit.open("long")
    visit.look("long")
    visit.press("Deny")
    visit.open("several")
    visit.look("several")
    page.get_by_role("checkbox").first.check()
    visit.press("Allow")
    visit.open("error")
    visit.look("error")


def by_keyboard(visit: Visit) -> None:
    """Allow without a pointer."""
    page = visit.open("short")
    visit.tab_to("param.order_id=")
    page.keyboard.type("o-2")
    visit.tab_to("answer=allow")
    page.keyboard.press("Enter")
    visit.require_back()


def faults(plan: dict[str, Any]) -> Iterator[str]:
    """Yield each fault."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=plan["chromium"], args=["--no-sandbox"])
        for view in VIEWS:
            visit = Visit(browser, plan, view)
            journeys(visit)
            if view == "wide":
                by_keyboard(visit)
            yield from visit.faults
            visit.context.close()
        browser.close()


if __name__ == "__main__":
    lines = list(dict.fromkeys(faults(json.load(sys.stdin))))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.exit(bool(lines))
