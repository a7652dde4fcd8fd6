# SPDX-License-Identifier: Apache-2.0
"""docs/api.md describes the API as it is."""

import json
import re
from pathlib import Path

from arx_caps.mint.api.app import ENDPOINTS
from arx_caps.mint.api.problems import CODES
from arx_caps.mint.api.routes.operations.health import OPEN
from tests.house.pages import blocks

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


def test_its_table_is_every_code_of_the_mint() -> None:
    """
    The page has each code with its status, its meaning and its remedy, as the mint answers it.
    """
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    assert [(code, (int(status), means, do)) for code, status, means, do in rows] == [*CODES.items()]


def test_its_example_is_a_refusal() -> None:
    """
    The problem that it shows is one of a code that there is.
    """
    (shown,) = [json.loads(block.text) for block in blocks(PAGE) if block.language == "json"]
    known = CODES[shown["code"]]
    assert (shown["status"], shown["title"]) == (known.status, known.means)
    assert shown["type"].endswith(f"/problems/{shown['code']}")


def test_the_paths_that_it_names_are_there() -> None:
    """
    Calls and open routes of the page are the mint's.
    """
    named = set(re.findall(r"`((?:GET|POST) /[\w/]+)`", PAGE))
    assert named <= {f"{each.method} {each.path}" for each in ENDPOINTS}
    opened = next(line for line in PAGE.splitlines() if "need no proof" in line)
    assert re.findall(r"`(/\w[^`]*?)…?`", opened) == [route.path.partition("{")[0] for route in OPEN]
