# SPDX-License-Identifier: Apache-2.0
"""docs/performance.md says what was measured: its figures and plots are those of ``benchmarks/results/``."""

import re
from pathlib import Path

import pytest

from benchmarks import audit, page
from benchmarks.gateway import report
from benchmarks.gateway.places import CHECK, NGINX, NGINX_ASKS
from benchmarks.kill_report import DOCS
from benchmarks.measure import RESULTS

PAGE = (DOCS / page.PAGE).read_text("utf-8")
TEXTS, PLOTS = page.rendered()


@pytest.mark.parametrize("marker", sorted(TEXTS))
def test_a_part_of_the_page_is_its_files(marker: str) -> None:
    """
    Between two markers stands what the file of figures gives, and no other number.
    """
    found = re.findall(rf"<!-- {marker}: begin[^>]*-->\n\n(.*?)\n\n<!-- {marker}: end -->", PAGE, re.DOTALL)
    assert found == [TEXTS[marker]], "run `python -m benchmarks.page`"


def test_every_part_has_its_file() -> None:
    """
    No marker of the page is left without a file of figures.
    """
    assert set(re.findall(r"<!-- ([\w-]+): begin", PAGE)) == set(TEXTS)
    assert {path.stem for path in RESULTS.glob("*.json")} == {*page.PARTS, "audit", "compare"}


def test_the_audit_trail_s_page_is_its_file() -> None:
    """
    Between the markers of docs/audit.md, and in its plot, stands what its file of figures gives.
    """
    found = audit.load("audit")
    shown = (DOCS / audit.PAGE).read_text("utf-8").partition("<!-- figures: begin -->\n\n")[2]
    assert shown.partition("\n\n<!-- figures: end -->")[0] == audit.page(found), (
        "run `python -m benchmarks.audit --page`"
    )
    assert (DOCS / audit.PLOT).read_text("utf-8") == audit.plot(found)


@pytest.mark.parametrize("name", sorted(PLOTS))
def test_a_plot_is_its_files(name: str) -> None:
    """
    Each plot is drawn from the file of figures, and shown on the page.
    """
    assert (DOCS / name).read_text("utf-8") == PLOTS[name], "run `python -m benchmarks.page`"
    assert f"]({name})" in PAGE


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_figures_say_on_what_and_not_where(path: Path) -> None:
    """
    A file of figures names processor, Python and versions, and neither host nor folder of who measured.
    """
    found = page.load(path.stem)
    assert found["machine"]
    assert found["python"]
    assert not re.search(r'"[^"]*(/home/|/root|/tmp|/work|hostname|localhost)', path.read_text("utf-8"))


def test_the_deciders_have_a_table_where_they_were_measured() -> None:
    """
    Older figures have none, and figures of a machine without nginx say so.
    """
    older = {name: value for name, value in page.load("gateway").items() if name != "deciders"}
    times = {"p50_ms": 1.0, "p99_ms": 2.0}
    rows = {NGINX: times, NGINX_ASKS: times | {"added_p50_ms": 0.5, "added_p99_ms": 0.75}, CHECK: times}
    plain = report.tables(older)
    assert "auth_request" not in plain
    assert report.tables(older | {"deciders": {}}) == f"{plain}\n\n{report.NOT_MEASURED}"
    shown = report.tables(older | {"deciders": rows}).removeprefix(plain)
    assert "| nginx, `auth_request` | 1.00 | 2.00 | 0.50 | 0.75 |" in shown
    assert f"| {CHECK} | 1.00 | 2.00 |  |  |" in shown
