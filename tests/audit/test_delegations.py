# SPDX-License-Identifier: Apache-2.0
"""An outsider checks who delegated to whose key: a proof file, the log's key, and nothing secret."""

import json
from pathlib import Path

import msgspec
import pytest

from arx_caps.audit.merkle.note import Note
from arx_caps.audit.merkle.proof import RecordProof
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import seal
from tests.audit.world import LOG, ORIGIN, checkpoint_of, note, records, signer, write
from tests.cli.helpers import Ran, arx
from tests.support import access, mint, verifier
from tests.verifier.test_holder import FIRST, SECOND, THIRD, handed, signed

pytestmark = pytest.mark.spec("16.5", "LOG 1.4")

BOUND = verifier().decide(signed(handed(2), THIRD), access())


def proven(folder: Path, decision: Decision, by: note.Signer = LOG) -> Path:
    """The proof of a decision's record in a log, as ``arx audit prove`` writes it."""
    sealed = seal(decision.pack(), "orders-1", "b" * 12, 1)
    log = write(folder / "log", [*records(3), sealed.kept])
    proof = RecordProof(
        sealed.kept, sealed.body, 3, tuple(log.reader.inclusion(3)), Note.parse(checkpoint_of(log.records, by))
    )
    (folder / "proof").write_bytes(proof.encode())
    return folder / "proof"


def checked(file: Path, *words: str, by: note.Signer = LOG) -> Ran:
    return arx("audit", "verify", file, "--key", str(by.key), *words)


def test_each_signature_is_checked(tmp_path: Path) -> None:
    """By the keys in the record; also when the body was erased, for the keys are in the kept part."""
    file = proven(tmp_path, BOUND)
    shown = checked(file, "--json").json["delegations"]
    assert [(each["by"], each["by_key"], each["to"], each["key"]) for each in shown] == [
        ("acme/support", FIRST.public, "acme/worker", SECOND.public),
        ("acme/worker", SECOND.public, "acme/worker", THIRD.public),
    ]
    assert [each["link"] for each in shown] == list(BOUND.facts.links)
    text = checked(file).out
    assert text.startswith("HOLDS")
    assert all(key.public in text for key in (FIRST, SECOND, THIRD))
    erased = RecordProof.parse(file.read_bytes())
    file.write_bytes(RecordProof(erased.kept, None, erased.index, erased.path, erased.note).encode())
    assert checked(file, "--json").json["delegations"] == shown


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: {"named": ("acme/other", *facts.named[1:])},
        lambda facts: {"links": facts.links[::-1]},
        lambda facts: {"audience": "payments"},
        lambda facts: {"holders": (facts.holders[1], *facts.holders[1:])},
        lambda facts: {"holders": (*facts.holders[:2], facts.holders[2]._replace(key=FIRST.public))},
        lambda facts: {"holders": (*facts.holders[:2], facts.holders[2]._replace(said=bytes(32)))},
        lambda facts: {"holders": (*facts.holders[:2], facts.holders[2]._replace(signature=b""))},
        lambda facts: {"holders": (*facts.holders, facts.holders[2])},
        lambda facts: {"links": facts.links[:1]},
    ],
)
def test_what_a_holder_has_not_signed_does_not_hold(tmp_path: Path, change: object) -> None:
    """A service that made its record up is found out, although the log has that record."""

    facts = msgspec.structs.replace(BOUND.facts, **change(BOUND.facts))  # type: ignore[operator]
    made_up = Decision("ok", BOUND.at, facts, BOUND.tool)
    ran = checked(proven(tmp_path, made_up))
    assert (ran.exit_code, ran.out.startswith("TAMPERED: record 3")) == (1, True), ran


def test_the_realm_is_that_of_the_log(tmp_path: Path) -> None:
    """From its default name; else it has to be given, and a wrong one does not hold."""
    assert ORIGIN.endswith("/acme/log")
    assert checked(proven(tmp_path, BOUND), "--realm", "other").exit_code == 1
    named = signer(1, "logs.example/7")
    (tmp_path / "named").mkdir()
    file = proven(tmp_path / "named", BOUND, named)
    ran = checked(file, by=named)
    assert (ran.exit_code, "--realm" in ran.err) == (0, True)
    assert checked(file, "--json", by=named).json["delegations"] is None
    assert len(checked(file, "--json", "--realm", "acme", by=named).json["delegations"]) == 2


def test_other_records_have_nothing_to_check(tmp_path: Path) -> None:
    """A bearer token's call, and a record that no reader of this version knows."""
    bearer = verifier().decide(mint().encode(), access())
    assert checked(proven(tmp_path, bearer), "--json").json["delegations"] == []
    log = write(tmp_path / "other", records(3))
    proof = RecordProof(log.records[1], None, 1, tuple(log.reader.inclusion(1)), Note.parse(log.checkpoint))
    (tmp_path / "proof").write_bytes(proof.encode())
    assert json.loads(checked(tmp_path / "proof", "--json").out)["delegations"] == []


def test_a_signed_call_is_checked(tmp_path: Path) -> None:
    """By the last holder's key; one that says another time, holder or audience does not hold."""
    evident = verifier().decide(signed(handed(1), SECOND, signs=True), access())
    report = checked(proven(tmp_path, evident), "--json").json["call"]
    assert (report["by"], report["by_key"]) == ("acme/worker", SECOND.public)
    assert evident.signed is not None
    assert report["call"] == evident.signed.plain.decode()
    assert "call by" in checked(proven(tmp_path, evident)).out
    assert checked(proven(tmp_path, BOUND), "--json").json["call"] is None
    for change in ({"said": bytes(32)}, {"plain": evident.signed.plain[:-1]}, {"signature": bytes(64)}):
        forged = msgspec.structs.replace(evident, signed=evident.signed._replace(**change))
        assert checked(proven(tmp_path, forged)).exit_code == 1
    for more in ({"audience": "payments"}, {"links": ("A" * 22,)}, {"holders": ()}):
        forged = msgspec.structs.replace(evident, facts=msgspec.structs.replace(evident.facts, **more))
        assert checked(proven(tmp_path, forged)).exit_code == 1
