# SPDX-License-Identifier: Apache-2.0
"""The pages of consent and of errors: what others chose is text there, and the style is the one that is allowed."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.mint.oauth.consent_page import error_page, headers_of
from tests.console.html import require_well_formed
from tests.mint.login import Flow
from tests.mint.test_registration import SelfRegistered
from tests.support import QUICK

pytestmark = pytest.mark.spec("CONTROL 5.8")
# Ends an element, an attribute of either quotes, a comment, a style, and a template's expression.
HOSTILE = "</code></dd><img src=x>\" autofocus x='y' --></style>{{ 7 * 7 }}{% include 'page.css' %}&lt;\u202e"
MARKS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Shown(HTMLParser):
    """What a page shows, and its elements with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.elements = "", list[tuple[str, dict[str, str | None]]]()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@QUICK
@given(st.text(min_size=1, max_size=80), st.none() | st.text(max_size=40))
def test_an_error_shows_its_text_and_nothing_of_it_is_html(text: str, path: str | None) -> None:
    """Text and address end no element and no attribute, and no mark turns the direction of writing."""
    back = None if path is None else f"https://client.example/{path}"
    page = error_page(text, back)
    require_well_formed(page)
    shown = Shown(page)
    assert [tag for tag, _ in shown.elements if tag not in ("html", "head", "meta", "title", "style", "body")] == [
        *("main", "h1", "p", "p"),
        *(() if back is None else ("p", "a", "code")),
    ]
    assert not MARKS.search(shown.text)
    if back is not None:
        (link,) = [attrs["href"] for tag, attrs in shown.elements if tag == "a"]
        assert str(link).replace("\r\n", "\n").replace("\r", "\n") == back.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.sqlite
def test_what_others_chose_is_text_on_the_page_that_asks(flow: Flow) -> None:
    """A client's name, its parameters, and what the person typed: shown in full, as text or a field's value."""
    stranger = Flow(flow.harness, SelfRegistered(flow.harness, client_name="</code><b>Orders</b> \"'{{ 7 * 7 }}"))
    details = json.dumps([{"type": "arx_task", "params": {"order_id": HOSTILE[-10:]}}])
    page = stranger.page(authorization_details=details)
    require_well_formed(page.text)
    shown = Shown(page.text)
    assert "</code><b>Orders</b> \"'{{ 7 * 7 }}" in shown.text
    assert not MARKS.search(page.text)
    assert {tag for tag, _ in shown.elements} & {"b", "img", "script"} == set()
    asking = flow.page()
    fields = dict(re.findall(r'name="(token)" value="([^"]+)"', asking.text))
    again = flow.browser.post("/oauth/consent", data=fields | {"param.order_id": HOSTILE, "answer": "allow"})
    require_well_formed(again.text)
    (typed,) = [attrs["value"] for tag, attrs in Shown(again.text).elements if attrs.get("name") == "param.order_id"]
    assert (again.status_code, typed) == (400, HOSTILE)
    assert "Not allowed: " in again.text


@pytest.mark.sqlite
def test_the_style_of_each_page_is_the_one_that_its_policy_allows(flow: Flow) -> None:
    """Browsers hash what is between the tags of ``style``; any other style is refused."""
    asking, error = flow.page(), flow.visit("/oauth/consent")
    for page in (asking, error):
        (style,) = re.findall("<style>(.*?)</style>", page.text, re.DOTALL)
        allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{allowed}'" in page.headers["content-security-policy"]
    assert error.headers["content-security-policy"] == headers_of()["Content-Security-Policy"]
