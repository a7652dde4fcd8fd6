# SPDX-License-Identifier: Apache-2.0
"""The vectors of SPEC 15.3: segments made by a second writer, read and finished by this one."""

import json
from pathlib import Path
from typing import Any

import pytest

from arx_verifier.errors import AuditError
from arx_verifier.journal.quota import finish_stale
from arx_verifier.journal.reader import Damage, SegmentReader
from arx_verifier.journal.segment import HEADER_BYTES, is_closed, is_last, read_header
from tests.vectors import make_vectors

pytestmark = pytest.mark.spec("15.3")

FOLDER = Path(__file__).parent.parent / "vectors" / "journal"
VECTORS: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def found_in(path: Path) -> dict[str, Any]:
    """Read a segment of a dead writer, as the ``expect`` of a vector has it without ``end``."""
    start, damages = path.read_bytes()[:HEADER_BYTES], list[Damage]()
    try:
        header = read_header(start)
    except AuditError:
        return {"header": None, "state": None, "records": [], "damage": [0]}
    read = [
        [sequence, payload.hex() or None]
        for sequence, payload in SegmentReader(path, header, damages.append).payloads()
    ]
    state = "ended" if is_last(start) else "closed" if is_closed(start) else "open"
    about = {name: getattr(header, name) for name in header.__struct_fields__}
    return {"header": about, "state": state, "records": read, "damage": [damage.offset for damage in damages]}


@pytest.mark.parametrize("name", VECTORS)
def test_each_segment_is_read_as_its_vector_says(name: str, tmp_path: Path) -> None:
    """With its damage, and a verifier that starts cuts it at its end or leaves it as it is."""
    vector = VECTORS[name]
    raw = bytes.fromhex(vector["file"]) + bytes(vector["zeros"])
    path = tmp_path / "0.arxj"
    path.write_bytes(raw)
    end = vector["expect"].pop("end")
    assert found_in(path) == vector["expect"], vector["comment"]
    finish_stale(tmp_path)
    whole = path.read_bytes()
    if end is None:
        assert whole == raw
    else:
        assert whole == raw[:8] + b"\1" + raw[9:end]
        assert found_in(path) == vector["expect"] | {"state": "closed"}
    vector["expect"]["end"] = end


def test_the_journal_files_are_what_the_script_makes() -> None:
    """Running the script again changes nothing: no file differs, is missing or is left over."""
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == make_vectors.build_journal()
