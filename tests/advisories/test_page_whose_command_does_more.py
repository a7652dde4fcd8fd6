# SPDX-License-Identifier: Apache-2.0
"""A link to a page of the console could make the command that the page shows run another one, when it is pasted."""

import re
import shlex
from html import unescape
from urllib.parse import quote

import pytest

from tests.console.harness import sign_in
from tests.mint.harness import Harness

SHOWN = re.compile(r'<aside class="command".*?<code>(.*?)</code>', re.DOTALL)
PAGES = (
    "sessions?text={}",
    "agents?state=active&under=acme&after=&x={}",
    "approvals?state=all&template={}",
    "decisions?session={}",
    "search?session={}",
    "kill?target={}",
)


@pytest.mark.sqlite
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.partition("?")[0])
@pytest.mark.parametrize("text", ["x;id", "$(id)", "x\nid", "x\x1b[201~id", "x\u202eid"])
def test_what_an_address_says_is_one_word(unit: Harness, page: str, text: str) -> None:
    """Nothing of it is for the shell or the terminal."""
    unit.mint.log.start()
    browser = sign_in(unit)
    shown = SHOWN.search(browser.get(f"/console/{page.format(quote(text))}"))
    assert shown is not None, browser.page
    command = unescape(shown[1])
    assert command.isprintable()
    assert all(not set(word) & set(";$()") or f"'{word}'" in command for word in shlex.split(command))
