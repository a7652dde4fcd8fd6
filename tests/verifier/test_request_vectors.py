# SPDX-License-Identifier: Apache-2.0
"""The vectors of SPEC 8.4: the arguments of each request, as a table of routes has them."""

import json
from pathlib import Path

import pytest

from tests.vectors import make_vectors
from tests.vectors.subject import arguments_of

FOLDER = Path(__file__).parent.parent / "vectors" / "requests"
VECTORS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


@pytest.mark.parametrize("name", VECTORS)
def test_each_request_has_the_arguments_of_its_vector(name: str) -> None:
    """With their types, or it is refused."""
    expected = VECTORS[name]["expect"]
    [came] = arguments_of(VECTORS[name]).values()
    assert json.dumps(came, sort_keys=True) == json.dumps(expected, sort_keys=True)


def test_the_files_are_what_the_script_makes() -> None:
    """Running the script again changes nothing."""
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == make_vectors.build_requests()
