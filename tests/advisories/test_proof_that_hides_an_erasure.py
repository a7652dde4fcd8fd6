# SPDX-License-Identifier: Apache-2.0
"""A proof of a record whose body was erased verified like any other, and `arx audit verify` did not say so."""

from pathlib import Path

import pytest

from arx_caps.audit.merkle.note import Note
from arx_caps.audit.merkle.proof import RecordProof
from tests.audit import world
from tests.cli.helpers import arx


@pytest.mark.spec("LOG 1.4")
@pytest.mark.parametrize("body", [world.body(3), None], ids=["whole", "erased"])
def test_verify_says_whether_the_body_is_there(tmp_path: Path, body: bytes | None) -> None:
    """For people and for scripts; the record verifies either way."""
    log = world.write(tmp_path / "log", world.records(12))
    proof = RecordProof(log.records[3], body, 3, tuple(log.reader.inclusion(3)), Note.parse(log.checkpoint))
    (tmp_path / "3.tlog-proof").write_bytes(proof.encode())
    command = ("audit", "verify", tmp_path / "3.tlog-proof", "--key", str(world.LOG.key))
    shown = arx(*command)
    assert (shown.exit_code, "HOLDS" in shown.out) == (0, True)
    assert ("it was erased, or is withheld" in shown.out) == (body is None)
    assert arx(*command, "--json").json["body"] == (body is not None)
