# SPDX-License-Identifier: Apache-2.0
"""The vectors of decision records: written by a second writer, taken apart and put together by this one."""

import json
from pathlib import Path
from typing import Any

import pytest

from arx_verifier.journal.decision import unpack, unpack_record
from arx_verifier.journal.record import seal
from tests.vectors import make_vectors

pytestmark = pytest.mark.spec("12.3")

FOLDER = Path(__file__).parent.parent / "vectors" / "records"
VECTORS: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


@pytest.mark.spec("12.6")
@pytest.mark.parametrize("name", VECTORS)
def test_each_record_has_the_bytes_of_its_vector(name: str) -> None:
    """A journal's payload seals into the vector's parts; both read as one decision, which packs into it again."""
    vector = VECTORS[name]
    journal, kept, body = (bytes.fromhex(vector[part]) for part in ("journal", "kept", "body"))
    assert seal(journal, vector["verifier"], vector["boot"], vector["sequence"]) == (kept, body)
    decision = unpack_record(kept, body)
    assert (decision.verifier, decision.boot, decision.sequence) == ("orders-1", "0123456789ab", vector["sequence"])
    assert decision.pack() == journal
    assert unpack(journal).to_dict() == decision.to_dict() | {"id": "", "verifier": "", "boot": "", "sequence": 0}
    erased = unpack_record(kept, None)
    assert erased.erased
    assert erased.salt == b""


def test_the_record_files_are_what_the_script_makes() -> None:
    """Running the script again changes nothing: no file differs, is missing or is left over."""
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == make_vectors.build_records()
