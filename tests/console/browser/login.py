# SPDX-License-Identifier: Apache-2.0
"""Operators sign in at a real OpenID provider, nanoidp, on its own pages, with a second factor, in a browser."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.browser.visit import Visit
from tests.mint.nanoidp import USERS, provider, totp
from tests.realm_folder import RealmFolder
from tests.servers import free_ports

POLICY: Final = """
[issuer.corp]
url = "ISSUER"
jwks = "ISSUER/.well-known/jwks.json"
audience = ["unused"]
algorithms = ["RS256"]

[[operator]]
issuer = "corp"
claims = { groups = "sre", amr = "otp" }
role = "responder"

[[operator]]
issuer = "corp"
claims = { groups = "leads" }
role = "kill-only"
"""
TARGET: Final = "agent:acme/support/triage"


class LoginRealm(RealmFolder):
    """A realm whose operators log in at nanoidp.

    Args:
        folder: For its files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.port,) = free_ports(1)
        self.mint = f"http://127.0.0.1:{self.port}"

    def age_sign_ins(self) -> None:
        """Let the sign-ins of all browsers be so old that none may grant."""
        with closing(sqlite3.connect(self.folder / "realm" / "mint.db", timeout=60)) as db, db:
            assert db.execute("UPDATE console_sessions SET fresh_until = 0").rowcount


@pytest.fixture
def visit(browser: Browser, realm: LoginRealm) -> Iterator[Visit]:
    """A browser that is not signed in; its faults fail the test.  The provider's pages have fonts from elsewhere."""
    made = Visit(browser, realm.mint)
    made.context.route(re.compile("^https:"), lambda route: route.fulfill(body=""))
    yield made
    assert made.close() == []


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginRealm]:
    """The realm and its provider."""
    made = LoginRealm(tmp_path_factory.mktemp("login"))
    (made.folder / "idp").mkdir()
    with provider(made.folder / "idp", made.mint) as issuer:
        made.make(made.port, POLICY.replace("ISSUER", issuer), issuer, scope="openid profile email")
        with made.up(ready='"schema": "arx/up'):
            made.arx("agent", "enrol", TARGET.partition(":")[2], "--key-out", str(made.folder / "agent.key"))
            yield made


def log_in(page: Page, name: str) -> None:
    """Go to the provider, fill in its forms as a person does, and come back."""
    page.get_by_role("link", name="Sign in at 127.0.0.1").click()
    page.locator("[name=username]").fill(name)
    page.locator("[name=password]").fill(USERS[name]["password"])
    page.locator("[name=password]").press("Enter")
    if "totp_secret" in USERS[name]:
        page.locator("[name=totp_code]").fill(totp(USERS[name]["totp_secret"]))
        page.locator("[name=totp_code]").press("Enter")


def test_a_person_signs_in_with_a_second_factor(visit: Visit, realm: LoginRealm) -> None:
    """
    The group gives the role, whose pages are in the menu.  A freeze works at once; a thaw grants, so it asks for
    another login when the last one is old, and goes on with the form as it was typed.
    """
    page = visit.open("/console/frozen")
    log_in(page, "eve")
    expect(page.get_by_role("heading", level=1)).to_have_text("Frozen")
    expect(page.get_by_text("corp.eve", exact=True)).to_be_visible()
    menu = page.get_by_role("navigation", name="Pages")
    expect(menu.get_by_role("link", name="Sessions")).to_be_visible()
    realm.age_sign_ins()
    page.goto(f"/console/freeze?target={TARGET}")
    page.get_by_label("Reason").fill("is this ours?")
    page.get_by_role("button", name="Freeze now").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Freeze")
    page.goto("/console/frozen")
    page.get_by_role("row").filter(has_text=TARGET).get_by_role("link", name="Thaw").click()
    page.get_by_label("Reason").fill("it is: ünser nightly run")
    page.get_by_role("button", name="Thaw now").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in again")
    log_in(page, "eve")
    expect(page.get_by_role("main")).to_contain_text("it is: ünser nightly run")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Thaw")
    expect(page.get_by_role("main")).to_contain_text("it is: ünser nightly run")
    page.goto("/console/frozen")
    expect(page.get_by_role("row").filter(has_text=TARGET)).to_have_count(0)


def test_the_menu_has_the_pages_of_the_role(visit: Visit) -> None:
    """Another group has another role, which may read one page alone."""
    page = visit.open("/console")
    log_in(page, "bob")
    expect(page.get_by_role("heading", level=1)).to_have_text("Kills")
    expect(page.get_by_role("navigation", name="Pages").get_by_role("link")).to_have_text(["Kills"])


def test_a_person_without_a_role_learns_what_is_missing(visit: Visit) -> None:
    """No page and no cookie, and what an administrator has to write."""
    visit.expected = "403"
    page = visit.open("/console/now")
    log_in(page, "ann")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not allowed")
    expect(page.get_by_role("alert")).to_contain_text("[[operator]]")
    expect(page.get_by_role("navigation", name="Pages")).to_have_count(0)
