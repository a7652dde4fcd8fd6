# SPDX-License-Identifier: Apache-2.0
"""The page of notifications: receivers are added, tested and removed, and what failed is sent again."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.mint.db.notices import KILLED
from tests.console.harness import Browser, operator_with, sign_in
from tests.mint.harness import Harness, open_unit
from tests.mint.receiver import ReceiverProcess

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 7")]
HOME = "/console/notifications"


@pytest.fixture
def harness(tmp_path: Path, realm_template: Path, receiver: ReceiverProcess) -> Iterator[Harness]:
    """A realm that may notify the receiver."""
    receiver.got.clear()
    with open_unit(tmp_path / "realm", template=realm_template, webhook_hosts=(receiver.netloc,)) as made:
        yield made


def add(browser: Browser, receiver: ReceiverProcess, path: str) -> str:
    browser.get(HOME)
    page = browser.post(HOME, url=receiver.url(path), format="json", **{f"event:{KILLED}": "on"})
    assert "whsec_" in page
    return re.findall(r"w-[a-z2-7]{16}", page)[-1]


def test_a_receiver_from_its_first_to_its_last_day(harness: Harness, receiver: ReceiverProcess) -> None:
    """Its secret is shown once; a test says what it answered; a failed notification is sent again."""
    browser = sign_in(harness)
    assert "There is no receiver" in browser.get(HOME)
    webhook = add(browser, receiver, "/200")
    page = browser.get(HOME)
    assert (webhook in page, "whsec_" in page, "/200" in page, KILLED in page) == (True, False, False, True)
    assert "answered 200" in browser.post(f"{HOME}/{webhook}/test")
    other = add(browser, receiver, "/500")
    assert "answered 500" in browser.post(f"{HOME}/{other}/test")
    db = harness.mint.db.notifications
    name = db.add(other, KILLED, {"by": "operator:ada", "targets": ["agent:a"], "count": 1, "seq": 1})
    row = db.claim(other, 1000)
    assert row is not None
    db.failed(row, "answered 500", None)
    assert name in browser.get(HOME)
    assert "answered 500" in browser.get(HOME)
    assert "now" in browser.post(f"{HOME}/resend", notification=name)
    assert db.page(status="waiting")[0].id == name
    browser.post(f"{HOME}/{webhook}/remove")
    assert webhook not in browser.get(HOME)


def test_a_form_sent_twice_adds_one(harness: Harness, receiver: ReceiverProcess) -> None:
    """A second click gets the same answer, as it is the one that the browser shows; another URL is another receiver."""
    browser = sign_in(harness)
    page = browser.get(HOME)
    form = dict(re.findall(r'name="(form)" value="([^"]+)"', page)) | {f"event:{KILLED}": "on", "format": "json"}
    form["url"] = receiver.url("/200")
    secrets = [re.findall("whsec_[^<]+", browser.post(HOME, **form)) for _ in range(2)]
    assert secrets[0] == secrets[1] != []
    assert len(harness.mint.db.webhooks.list()) == 1
    browser.post(HOME, **form | {"url": receiver.url("/500")})
    assert len(harness.mint.db.webhooks.list()) == 2


def test_who_reads_sees_no_button(harness: Harness, receiver: ReceiverProcess) -> None:
    """And a form that is sent all the same changes nothing."""
    webhook = add(sign_in(harness), receiver, "/200")
    browser = sign_in(harness, operator_with(harness, "bea", "read-only"))
    page = browser.get(HOME)
    assert webhook in page
    assert "<form" not in page.partition("<main")[2]
    browser.post(f"{HOME}/{webhook}/remove")
    assert browser.status == 403
    assert webhook in browser.get(HOME)
