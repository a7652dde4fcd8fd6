# SPDX-License-Identifier: Apache-2.0
"""A person's own accounts on the mint's page: connected ahead, seen, ended, and those of no other person."""

import re
from collections.abc import Iterator
from html import unescape

import httpx
import pytest

from tests.gateway.people import PeopleWorld, people
from tests.gateway.test_people import asked, connections

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 9.2", "CONTROL 9.4")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeopleWorld]:
    """One realm with its gateway for the tests of this file."""
    with people(tmp_path_factory.mktemp("people")) as made:
        yield made


def opened(world: PeopleWorld, browser: httpx.Client, person: str) -> httpx.Response:
    """Open the page in a person's browser, by a login."""
    page = world.visit(browser, f"{world.issuer}/connections", person)
    assert page.status_code == 200, page.text
    return page


def press(
    world: PeopleWorld, browser: httpx.Client, page: httpx.Response, answer: str, **headers: str
) -> httpx.Response:
    token = re.search(r'name="token" value="([^"]*)"', page.text)
    assert token is not None, page.text
    form = {"token": unescape(token[1]), "answer": answer}
    return browser.post(f"{world.issuer}/connections", data=form, headers=headers)


def connect_ahead(world: PeopleWorld, browser: httpx.Client, person: str) -> str:
    """Connect an account on the page, and return the connection's id."""
    page = opened(world, browser, person)
    assert "not connected" in page.text
    world.tracker.person = f"{person}-t"
    link = press(world, browser, page, "connect tracker").headers["location"]
    account = world.visit(browser, link, person)
    assert "Connected" in world.press(browser, account).text
    return next(str(each["id"]) for each in connections(world) if each["person"] == person)


def test_a_person_connects_ahead_sees_the_account_and_ends_it(world: PeopleWorld) -> None:
    """The first call then has the account; after the end no call has it, and the issuer has revoked it."""
    with httpx.Client(timeout=30) as browser:
        which = connect_ahead(world, browser, "ann")
        with world.task("ann") as task, world.client(task) as client:
            assert asked(client).json() == {"sub": "ann-t", "scope": "repo.read"}
            page = opened(world, browser, "ann")
            for text in ("ann-t", world.tracker.url, "repo.read", "repo.write", "triage", "connected", which):
                assert text in page.text
            done = press(world, browser, page, f"end {which}")
            assert (done.status_code, done.headers["location"]) == (303, "/connections")
            assert asked(client).json()["code"] == "connection_ended"
        assert f"end {which}" not in opened(world, browser, "ann").text
    [row] = connections(world)
    assert (row["state"], row["ended_why"]) == ("ended", "person")
    assert not any(found and found[0] == "ann-t" for found in world.tracker.grants.values())


def test_a_person_ends_an_account_that_was_killed(world: PeopleWorld) -> None:
    """A kill keeps the tokens; the end deletes and revokes them, also one that failed after its kill."""
    with httpx.Client(timeout=30) as browser:
        which = connect_ahead(world, browser, "erin")
        world.order("kill", f"connection:{which}")
        page = opened(world, browser, "erin")
        assert "killed" in page.text
        assert press(world, browser, page, f"end {which}").status_code == 303
    assert {each["id"]: each["state"] for each in connections(world)}[which] == "ended"
    assert not any(found and found[0] == "erin-t" for found in world.tracker.grants.values())


def test_no_other_person_sees_or_ends_an_account(world: PeopleWorld) -> None:
    """Neither by its id, nor with the page of another login, nor without one."""
    with httpx.Client(timeout=30) as theirs, httpx.Client(timeout=30) as mine, httpx.Client(timeout=30) as bare:
        which = connect_ahead(world, theirs, "bob")
        own, page = opened(world, theirs, "bob"), opened(world, mine, "mallory")
        assert "bob" not in page.text
        refused = press(world, mine, page, f"end {which}")
        assert (refused.status_code, "no such account of yours" in refused.text) == (400, True)
        for browser, form, headers in (
            (theirs, page, {}),  # the token of another page
            (theirs, own, {"Origin": "https://evil.example"}),
            (bare, own, {}),
        ):
            forged = press(world, browser, form, f"end {which}", **headers)
            assert (forged.status_code, "not from the page that asked" in forged.text) == (400, True)
        for answer in ("end c-none", "connect none", "connect", ""):
            assert press(world, theirs, own, answer).status_code == 400
    assert [each["state"] for each in connections(world) if each["id"] == which] == ["open"]


def test_the_page_wants_a_login_runs_no_script_and_is_framed_by_none(world: PeopleWorld) -> None:
    """A cookie that the mint has not sealed is no login; one of another purpose neither."""
    for cookies in ({}, {"arx-connections-accounts": "AAAA.BBBB"}, {"arx-connections-accounts": "x"}):
        with httpx.Client(timeout=30, cookies=cookies) as browser:
            first = browser.get(f"{world.issuer}/connections")
        assert first.status_code == 303
        assert first.headers["location"].startswith(world.login.url)
    with httpx.Client(timeout=30) as browser:
        headers = opened(world, browser, "carol").headers
        [cookie] = [each for each in browser.cookies.jar if each.name == "arx-connections-accounts"]
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert "carol" not in str(cookie.value)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"


def test_a_kill_of_a_person_ends_the_page(world: PeopleWorld) -> None:
    """Also one that is open in a browser: neither seen nor used any more."""
    with httpx.Client(timeout=30) as browser:
        connect_ahead(world, browser, "dan")
        page = opened(world, browser, "dan")
        [own] = [each for each in connections(world) if each["person"] == "dan"]
        world.order("kill", own["subject"])
        assert browser.get(f"{world.issuer}/connections").status_code == 400
        assert press(world, browser, page, "connect tracker").status_code == 400
