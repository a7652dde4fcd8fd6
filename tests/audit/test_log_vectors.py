# SPDX-License-Identifier: Apache-2.0
"""The vectors of LOG 1: made by a second implementation, read, checked and written alike by this one."""

import json
import shutil
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.errors import NoteError, TamperedError
from arx_caps.audit.merkle.key_change import follow_changes
from arx_caps.audit.merkle.note import VerifierKey
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.audit.merkle.tiles import TileReader, TileWriter, fetch_from, leaf_of
from arx_caps.audit.merkle.tree import check_consistency
from arx_caps.audit.merkle.verification import Trust, verify
from tests.vectors import log_vectors

FOLDER = Path(__file__).parent.parent / "vectors" / "log"
KEY = VerifierKey.parse((FOLDER / "log.vkey").read_text().strip())
WITNESS = VerifierKey.parse((FOLDER / "witness.vkey").read_text().strip())
CHANGES = json.loads((FOLDER / "key-changes.json").read_text())
CASES = json.loads((FOLDER / "proofs.json").read_text())


def test_the_files_are_what_the_script_makes() -> None:
    """Running the script again changes nothing: no file differs, is missing or is left over."""
    there = {str(path.relative_to(FOLDER)): path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    assert there == log_vectors.files()


@pytest.mark.spec("LOG 1.1", "LOG 1.2")
def test_the_log_holds_and_continues_its_older_checkpoints() -> None:
    """As a folder, and by the proofs that stand beside it, which the tiles give as well."""
    head = open_checkpoint((FOLDER / "checkpoint").read_bytes(), KEY, [WITNESS]).checkpoint
    reader = TileReader(fetch_from(FOLDER), head.size)
    for given in json.loads((FOLDER / "consistency.json").read_text()):
        held = open_checkpoint((FOLDER / "older" / str(given["old"])).read_bytes(), KEY, [WITNESS])
        assert verify(FOLDER, Trust(KEY, (WITNESS,), held)).records == head.size
        proof = [b64decode(each) for each in given["proof"]]
        check_consistency(held.checkpoint.size, held.checkpoint.root, head.size, head.root, proof)
        assert reader.consistency(held.checkpoint.size) == proof


@pytest.mark.spec("LOG 1.3")
def test_this_writer_makes_the_same_files(tmp_path: Path) -> None:
    """Byte for byte, from the records alone."""
    writer = TileWriter(tmp_path)
    writer.append(map(leaf_of, log_vectors.RECORDS))
    writer.flush()
    made = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert made == {name: raw for name, raw in log_vectors.files().items() if name.startswith("tile/")}
    shutil.rmtree(tmp_path)


@pytest.mark.spec("LOG 1.4")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"])
def test_each_proof_comes_out_as_it_says(case: dict[str, str]) -> None:
    """It holds and is written back alike, is tampered with, or is no proof."""
    raw = case["proof"].encode()
    if case["expect"] == "malformed":
        with pytest.raises(NoteError):
            RecordProof.parse(raw).check(KEY)
        return
    proof = RecordProof.parse(raw)
    assert proof.encode() == raw
    if case["expect"] == "holds":
        assert WITNESS in proof.check(KEY, [WITNESS]).seen
    else:
        with pytest.raises(TamperedError):
            proof.check(KEY)


@pytest.mark.spec("LOG 1.12")
@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case["comment"])
def test_each_change_leads_where_it_says(case: dict[str, Any]) -> None:
    """To the next keys, also for a reader who requires the witness, or nowhere."""
    if isinstance(case["expect"], str):
        with pytest.raises(NoteError if case["expect"] == "malformed" else TamperedError):
            follow_changes(KEY, case["changes"])
        return
    keys = follow_changes(KEY, case["changes"], [WITNESS])
    assert [str(era.key) for era in keys.eras] == [str(KEY), *case["expect"]]


def test_refusals_lead() -> None:
    """Most proofs do not hold, and each says why."""
    counts = Counter(case["expect"] for case in CASES)
    assert set(counts) == {"holds", "tampered", "malformed"}
    assert counts["holds"] * 3 < len(CASES)
    assert all(case["comment"] and case["spec"] for case in CASES)
