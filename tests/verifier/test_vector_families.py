# SPDX-License-Identifier: Apache-2.0
"""The families of vectors beside tokens: scripts of the epoch, problems, JSON bodies, what a holder writes."""

from pathlib import Path

import pytest

from tests.vectors import make_vectors
from tests.vectors.families import Vector, judge, load
from tests.vectors.subject import ANSWERS

FOLDER = Path(__file__).parent.parent / "vectors"
VECTORS = [vector for vector in load() if vector.family in make_vectors.FAMILIES]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.path)
def test_each_vector_comes_out_as_it_says(vector: Vector) -> None:
    """The answer of this implementation is the vector's."""
    assert judge(vector, ANSWERS[vector.family](vector.input)) is None


@pytest.mark.parametrize("family", make_vectors.FAMILIES)
def test_the_files_are_what_the_script_makes(family: str) -> None:
    """Running the script again changes nothing: no file differs, is missing or is left over."""
    files = {path.name: path.read_text() for path in (FOLDER / family).glob("*.json")}
    assert files == make_vectors.build_family(family)


def test_the_scripts_have_every_answer_of_the_epoch() -> None:
    """Each reason that a view can have, and a check that passes."""
    codes = {"ok", "revoked", "frozen", "syncing", "stale", "behind", "fenced", "closed"}
    steps = [step for vector in VECTORS if vector.family == "epochs" for step in vector.answer["output"]["steps"]]
    assert {step for step in steps if isinstance(step, str)} == codes | {"taken", "dropped"}
