# SPDX-License-Identifier: Apache-2.0
"""The vectors of SPEC 15.3: segments made by a second writer, read and finished by this one."""

import json
from pathlib import Path
from typing import Any

import pytest

from arx_verifier.journal.quota import finish_stale
from tests.vectors import make_vectors
from tests.vectors.subject import segment_in

pytestmark = pytest.mark.spec("15.3")

FOLDER = Path(__file__).parent.parent / "vectors" / "journal"
VECTORS: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


@pytest.mark.parametrize("name", VECTORS)
def test_each_segment_is_read_as_its_vector_says(name: str, tmp_path: Path) -> None:
    """With its damage, and a verifier that starts cuts it at its end or leaves it as it is."""
    vector = VECTORS[name]
    raw = bytes.fromhex(vector["file"]) + bytes(vector["zeros"])
    path = tmp_path / "0.arxj"
    path.write_bytes(raw)
    end = vector["expect"].pop("end")
    assert segment_in(path) == vector["expect"], vector["comment"]
    finish_stale(tmp_path)
    whole = path.read_bytes()
    if end is None:
        assert whole == raw
    else:
        assert whole == raw[:8] + b"\1" + raw[9:end]
        assert segment_in(path) == vector["expect"] | {"state": "closed"}
    vector["expect"]["end"] = end


def test_the_journal_files_are_what_the_script_makes() -> None:
    """Running the script again changes nothing: no file differs, is missing or is left over."""
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == make_vectors.build_journal()
