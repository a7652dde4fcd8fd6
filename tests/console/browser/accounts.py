# SPDX-License-Identifier: Apache-2.0
"""What people do at the mint's pages of their own accounts, in a browser; the accounts' issuer is nanoidp."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.browser.visit import Visit
from tests.gateway.account_issuers import RULES, TERMS, Upstream, nanoidp
from tests.gateway.people import CLIENT, SECRET, PeopleWorld, people
from tests.gateway.test_people import asked, connections
from tests.servers import free_ports


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeopleWorld]:
    """A realm whose gateway is before an upstream with accounts of people."""
    [mint] = free_ports(1)
    client = {"client_id": CLIENT, "client_secret": SECRET}
    client |= {"redirect_uris": [f"http://127.0.0.1:{mint}/connect/callback/tracker"]}
    with nanoidp(client) as url:
        terms, folder = TERMS.replace("{url}", url), tmp_path_factory.mktemp("people")
        with people(folder, tracker=Upstream(url), connection=terms, policy=RULES, mint=mint) as made:
            yield made


@pytest.fixture
def visit(browser: Browser, world: PeopleWorld) -> Iterator[Visit]:
    """A person's browser; a fault of the mint's pages fails the test."""
    visit = Visit(browser, world.issuer)
    visit.expected = "400"  # Chromium writes each refused form as an error
    yield visit
    assert [fault for fault in visit.close() if fault.startswith(world.issuer)] == []


def open_as(world: PeopleWorld, visit: Visit, person: str, place: str = "/connections") -> Page:
    """Open a page; the mint's login is the person's."""
    world.login.person = {"sub": person}
    return visit.open(place)


def log_in(page: Page, account: str) -> None:
    """Log in at the issuer of the accounts, and come to the mint's page of the account."""
    page.locator("[name=username]").fill(account)
    page.locator("[name=password]").fill(account)
    page.locator("[name=password]").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Is this your account?")
    expect(page.locator("body")).to_contain_text(account)


def test_a_person_connects_an_account_and_ends_it(world: PeopleWorld, visit: Visit) -> None:
    """The account is shown before it is stored; after its end the next call is refused with a link."""
    with world.task("ann") as task, world.client(task) as client:
        page = open_as(world, visit, "ann")
        expect(page.locator("body")).to_contain_text("not connected")
        page.get_by_role("button", name="Connect an account").click()
        log_in(page, "ann-t")
        assert connections(world) == []
        page.get_by_role("button", name="Connect this account").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Connected")
        assert asked(client).json()["sub"] == "ann-t"
        page = visit.open("/connections")
        expect(page.locator("body")).to_contain_text("triage")
        expect(page.locator("strong")).to_have_text("ann-t")
        page.get_by_role("button", name="End the use of this account").click()
        expect(page.get_by_role("button", name="Connect an account")).to_be_visible()
        expect(page.locator("body")).to_contain_text("ended")
        refused = asked(client)
        assert (refused.status_code, refused.json()["code"]) == (403, "connection_ended")
        assert refused.json()["connect_url"].startswith(f"{world.issuer}/connect/")


def test_what_a_browser_is_refused_connects_nothing(world: PeopleWorld, visit: Visit) -> None:
    """Another person's link, a form without its token, the page of before by the button Back, and a used link."""
    with world.task("bob") as task, world.client(task) as client:
        link = asked(client).json()["connect_url"]
        page = open_as(world, visit, "ann", link)
        expect(page.locator("body")).to_contain_text("is for bob, and you are logged in as ann")
        page = open_as(world, visit, "bob", link)
        log_in(page, "bob-t")
        page.evaluate("document.querySelector('input[name=token]').value = ''")
        page.get_by_role("button", name="Connect this account").click()
        expect(page.get_by_role("button", name="Connect this account")).to_have_count(0)
        assert asked(client).json()["code"] == "connection_missing"
        page.go_back()
        page.get_by_role("button", name="Connect this account").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Connected")
        page.go_back()
        expect(page.get_by_role("button", name="Connect this account")).to_have_count(0)
        page = visit.open(link)
        expect(page.locator("body")).to_contain_text("This link was used")
        assert asked(client).json()["sub"] == "bob-t"
    assert [each["state"] for each in connections(world) if each["person"] == "bob"] == ["open"]
