# SPDX-License-Identifier: Apache-2.0
"""The curve of decisions and refusals: every count is in it, nothing lies outside, and *Now* shows it live."""

import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.console.curve import HEIGHT, WIDTH, decisions, draw_curve, refused
from arx_caps.mint.api.routes.events.totals import CountsShown, PointShown, Totals
from arx_verifier.errors import StoreError
from tests.audit.batches import batch_of, decision, facts
from tests.console.harness import operator_with, sign_in
from tests.mint.harness import Harness, now_ms
from tests.support import QUICK

MINUTE = 60_000
COUNTS = st.integers(0, 10**6)


@st.composite
def totals_over_time(draw: Any) -> Totals:
    """Totals of a time with some steps."""
    step, first, count = (
        draw(st.sampled_from((MINUTE, 60 * MINUTE))),
        draw(st.integers(0, 10**6)),
        draw(st.integers(1, 400)),
    )
    places = draw(st.sets(st.integers(0, count - 1), max_size=20))
    numbers = [[draw(COUNTS) for _ in range(5)] for _ in places]
    since = first * step
    points = [
        PointShown(at=since + place * step, **dict(zip(("allow", "deny", "end", "counted", "other"), row, strict=True)))
        for place, row in zip(sorted(places), numbers, strict=True)
    ]
    total = CountsShown(*(sum(row[n] for row in numbers) for n in range(5)))
    return Totals(since=since, until=since + count * step, step=step, points=points, total=total, size=1)


@QUICK
@given(totals_over_time())
def test_joined_steps_lose_no_record(totals: Totals) -> None:
    """With all of the time over, the curve has the totals, in steps of whole lengths."""
    curve = draw_curve(totals, totals.until + 400 * totals.step)
    assert curve.step_ms % totals.step == 0
    whole = [point for point in totals.points if point.at < curve.until]
    assert curve.decisions == sum(map(decisions, whole))
    assert curve.refused == sum(map(refused, whole))
    if totals.until <= curve.until:
        assert curve.decisions == decisions(totals.total)


@QUICK
@given(totals_over_time(), st.integers(0, 10))
def test_a_curve_stays_in_its_frame(totals: Totals, behind: int) -> None:
    """Lines go over the whole width and never leave the height; the words have what the lines show."""
    curve = draw_curve(totals, totals.until - behind * totals.step)
    drawing = ET.fromstring(str(curve.svg))
    paths = drawing.findall("path")
    assert [path.get("class") for path in paths] == ["allow area", "allow line", "refused area", "refused line"]
    for path in paths:
        points = [tuple(map(float, pair.split())) for pair in re.split("[MLZ]", path.get("d", "")) if pair]
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
        assert (points[0][0], points[-1][0]) == (0, WIDTH)
    assert curve.refused <= curve.decisions <= decisions(totals.total)
    assert f"{curve.decisions} decisions, {curve.refused} refused" in (drawing.findtext("desc") or "")
    assert curve.until <= max(totals.until, curve.since + curve.step_ms)


@pytest.mark.sqlite
def test_now_shows_decisions_over_time(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has the counts of the totals; without the log it is there all the same; a role may see no curve."""
    unit.mint.log.start()
    browser = sign_in(unit)
    page = browser.get("/console/now")
    assert '<svg class="curve"' in page
    assert 'aria-labelledby="curve-title curve-words"' in page
    assert '<svg class="curve"' not in sign_in(unit, operator_with(unit, "pia", "policy")).get("/console/now")

    def fail(*_: object, **__: object) -> None:
        raise StoreError("the log does not answer")

    monkeypatch.setattr(unit.mint.log.store, "reading", fail)
    page = browser.get("/console/now")
    assert browser.status == 200
    assert "The audit log does not answer" in page


@pytest.mark.sqlite
def test_the_curve_counts_what_was_decided(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five decisions of the hour before, two of them refused."""
    monkeypatch.setattr(unit.mint.log, "_run", lambda: None)
    unit.mint.log.start()
    made = [decision(n, facts("s-1", "t-1"), "ok" if n < 4 else "revoked") for n in range(1, 6)]
    for each in made:
        each.at = now_ms() - 10 * MINUTE
    unit.mint.log.store.take(batch_of(made), None)
    unit.mint.log.step()
    page = sign_in(unit).get("/console/now?since=1h")
    assert "5 decisions, 2 refused" in page
