# SPDX-License-Identifier: Apache-2.0
"""docs/comparison.md compares ARx with tenuo in each framework that both have, and shows what was found."""

import re
from importlib.metadata import distribution
from pathlib import Path

from benchmarks.compare import report
from benchmarks.compare.frameworks import BOTH, TENUO_ALONE
from benchmarks.compare.glue import lines_of
from benchmarks.kill_report import DOCS
from benchmarks.measure import load
from tests.house.pages import ROOT

PAGE = (DOCS / report.PAGE).read_text("utf-8")
FOUND = load(report.NAME)
NO_FRAMEWORK = {"cli", "cloud", "dev"}  # extras of tenuo


def test_each_framework_that_both_have_is_compared() -> None:
    """
    An adapter that tenuo gains shows here as an extra that is neither compared nor named as tenuo's alone.
    """
    tenuo = distribution("tenuo")
    package = Path(str(tenuo.locate_file("tenuo")))
    extras = {each.replace("-", "_") for each in tenuo.metadata.get_all("Provides-Extra") or ()}
    compared = {extra for each in BOTH.values() for extra in each.tenuo}
    assert extras - NO_FRAMEWORK == compared | set(TENUO_ALONE)
    assert all((package / each.adapter).exists() for each in BOTH.values())
    ours = [ROOT / "arx_caps" / "integrations", ROOT / "verifier" / "arx_verifier" / "integrations"]
    assert set(BOTH) <= {path.stem for folder in ours for path in folder.glob("*.py")}
    assert set(FOUND["frameworks"]) == set(BOTH)


def test_the_page_is_its_file() -> None:
    """
    Between two markers stands what the file of results gives.
    """
    for marker, text in report.rendered(FOUND).items():
        found = re.findall(rf"<!-- {marker}: begin[^>]*-->\n\n(.*?)\n\n<!-- {marker}: end -->", PAGE, re.DOTALL)
        assert found == [text], "run `make compare ARGS=--write`"


def example(number: int) -> object:
    """Use a product."""
    from arx_verifier import (
        open_verifier,
    )

    # Of nothing.
    plain = number + 1

    verifier = open_verifier(
        str(plain),
    )
    verifier.start()
    print(plain)
    return verifier


def test_lines_that_a_product_takes_are_counted() -> None:
    """
    The import, the call with its lines and what is done with its result; no other line, and not what is returned.
    """
    assert lines_of(example) == 7
