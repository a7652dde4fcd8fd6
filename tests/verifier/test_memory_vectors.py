# SPDX-License-Identifier: Apache-2.0
"""The vectors of SPEC 18: stamps made by a second implementation, checked by this one."""

import json
from pathlib import Path

import pytest

from tests.vectors import make_vectors
from tests.vectors.subject import check_stamp

FOLDER = Path(__file__).parent.parent / "vectors" / "memory"
VECTORS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.spec("18")
def test_each_vector_comes_out_as_it_says(name: str) -> None:
    """
    The very result, and the target of a taint.
    """
    vector = VECTORS[name]
    assert check_stamp(vector) == {"code": vector["expect"]}, vector["comment"]


def test_the_files_are_what_the_script_makes() -> None:
    """
    Running the script again changes nothing: no file differs, is missing or is left over.
    """
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == make_vectors.build_memory()
    assert {vector["expect"].partition(" ")[0] for vector in VECTORS.values()} == {
        "trusted",
        "tainted",
        "forged",
        "unknown",
    }
