# SPDX-License-Identifier: Apache-2.0
"""A purpose or an argument with marks that turn the direction of writing looked like another one in the console."""

import pytest

from arx_caps.console.render import render, short, short_id, spell
from arx_caps.console.timeline import draw_strip
from arx_caps.console.tree import draw
from arx_caps.mint.oauth.consent_page import error_page
from tests.console.harness import sign_in
from tests.console.test_tree import drawn, moment
from tests.mint.harness import Harness

MARKS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
TURNED = "refund \u202e05 ot 01\u202c euros"
SPELLED = "refund \\u202e05 ot 01\\u202c euros"


@pytest.mark.sqlite
@pytest.mark.spec("CONTROL 6.1")
def test_a_purpose_is_spelled_on_each_page(unit: Harness) -> None:
    """In the list, in the title of a shortened text, and on the session's page."""
    _, session = unit.open_session(unit.enrol(), purpose=TURNED)
    browser = sign_in(unit)
    for path in ("/console/sessions", f"/console/sessions/{session['id']}"):
        page = browser.get(path)
        assert SPELLED in page, path
        assert not set(MARKS) & set(page), path


def test_each_mark_is_spelled_wherever_a_value_stands() -> None:
    """In a value as it is, in one that a filter makes HTML of, and as the title; other letters stay."""
    for mark in MARKS:
        text = f"a{mark}b" * 20
        for shown in (spell(text), short(text), short(text[:3]), short_id(text), short_id(text[:3])):
            assert mark not in shown
            assert f"\\u{ord(mark):04x}" in shown
    assert spell("Zoë שלום 你好 👩\u200d🚀\n") == "Zoë שלום 你好 👩\u200d🚀\n"


def test_an_argument_of_a_record_is_spelled() -> None:
    """The page of a decision shows recorded arguments, and what a rule got."""
    row = {
        "at": None,
        "index": 1,
        "outcome": "deny",
        "badge": "",
        "tool": "x",
        "agent": "",
        "session": "",
        "why": TURNED,
    }
    html = render("decision_row.html", row=row | dict.fromkeys(("named", "chain", "holders"), ()), live=True)
    assert not set(MARKS) & set(html)


def test_a_drawing_is_spelled() -> None:
    """The names and titles of a delegation tree, and the lanes of its timeline."""
    nodes = [drawn(None, name="acme/a"), drawn(0, name=TURNED, removes=[TURNED], caveats=[{"exp": 1}])]
    records = [moment(1, 0)._replace(holder=TURNED)]
    for drawing in (draw(nodes, str), draw_strip(records)):
        assert SPELLED in drawing
        assert not set(MARKS) & set(drawing)


@pytest.mark.spec("CONTROL 5.8")
def test_a_reason_on_the_page_of_consent_is_spelled() -> None:
    """An error can quote what a client or an issuer sent."""
    assert SPELLED in error_page(f"unknown: {TURNED}")
    assert not set(MARKS) & set(error_page(TURNED))
