# SPDX-License-Identifier: Apache-2.0
"""A form that waited for a sign-in was kept after it was sent: the next sign-in offered the same act again."""

import pytest
from sqlalchemy import select, update

from arx_caps.mint.db.tables import CONSOLE_SESSIONS
from tests.console.harness import link_of, sign_in
from tests.mint.harness import Harness


@pytest.mark.sqlite
def test_a_form_is_offered_once(unit: Harness) -> None:
    """The page that offers it has what was typed; the database does not keep it."""
    browser = sign_in(unit)
    with unit.mint.db.write() as c:
        c.execute(update(CONSOLE_SESSIONS).values(fresh_until=0))
    browser.get("/console/kill?what=kill&target=realm:acme")
    browser.post("/console/kill", what="kill", targets="realm:acme", reason="now", do="go", form="f1")
    link = link_of(unit.operator())
    browser.get(link)
    page = browser.post("/console/open", link=link.partition("link=")[2])
    assert "This is what you were about to do" in page
    with unit.mint.db.read() as c:
        assert c.execute(select(CONSOLE_SESSIONS.c.draft)).scalars().all() == [None]
    assert "about to do" not in browser.get("/console/continue")
