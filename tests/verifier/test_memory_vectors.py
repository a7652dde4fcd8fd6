# SPDX-License-Identifier: Apache-2.0
"""The vectors of SPEC 18: stamps made by a second implementation, checked by this one."""

import json
from pathlib import Path
from typing import Any

import pytest

from arx_verifier.memory import Memory, MemoryKeys
from arx_verifier.revocation import EpochTable, Lease
from arx_verifier.revocation.epoch import FOREVER_NS
from tests.vectors import make_vectors

FOLDER = Path(__file__).parent.parent / "vectors" / "memory"
VECTORS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def memory_of(vector: dict[str, Any]) -> Memory:
    """The memory that a vector describes."""
    epochs = EpochTable()
    epochs.adopt(vector["incarnation"], vector["applied"], {}, vector["freezes"])
    assert epochs.renew(vector["incarnation"], vector["applied"], Lease(FOREVER_NS, FOREVER_NS, FOREVER_NS))
    memory = Memory(MemoryKeys({kid: bytes.fromhex(key) for kid, key in vector["keys"].items()}), epochs)
    if vector["seen"]:
        memory._complete = vector["incarnation"]
    return memory


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.spec("18")
def test_each_vector_comes_out_as_it_says(name: str) -> None:
    """
    The very result, and the target of a taint.
    """
    vector = VECTORS[name]
    verdict = memory_of(vector).check(vector["stamp"], vector["content"])
    assert " ".join(filter(None, verdict[:2])) == vector["expect"], vector["comment"]


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
