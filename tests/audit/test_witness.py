# SPDX-License-Identifier: Apache-2.0
"""A witness cosigns what only grew: never backwards, never sideways, and not after it was killed in between either."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from arx_caps.audit.merkle import tree
from arx_caps.audit.merkle.checkpoint import Checkpoint, open_checkpoint
from arx_caps.audit.merkle.errors import NoteError, TamperedError, WitnessError
from arx_caps.audit.merkle.keys import make_key
from arx_caps.audit.merkle.note import Note, signature_lines
from arx_caps.audit.merkle.tree import Tree, leaf_hash
from arx_caps.audit.witness.client import ask_witness
from arx_caps.audit.witness.server import create_app
from arx_caps.audit.witness.witness import KEY_FILE, MAX_REQUEST_BYTES, Request, Witness, WitnessResponse, hash_of
from arx_verifier.errors import SettingsError
from tests.audit.world import AT_S, LOG, ORIGIN, OTHER, STRANGER, checkpoint_of, records, signer

pytestmark = pytest.mark.spec("LOG 1.6")

KEPT = records(30)
WHOLE = Tree(map(leaf_hash, KEPT))
FORK = [*KEPT[:10], b"another", *KEPT[11:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A witness's folder."""
    (tmp_path / "w").mkdir()
    make_key(tmp_path / "w" / KEY_FILE, "witness.example/w")
    return tmp_path / "w"


@pytest.fixture
def witness(folder: Path) -> Witness:
    """A witness that knows one log."""
    return Witness(folder, [LOG.key])


def request(old: int, size: int, kept: list[bytes] | None = None, proof: list[bytes] | None = None) -> bytes:
    """A request for a checkpoint over the first records."""
    kept = KEPT if kept is None else kept
    made = tree.consistency_proof(Tree(map(leaf_hash, kept)).subtree, old, size) if proof is None else proof
    return Request(old, tuple(made), Note.parse(checkpoint_of(kept[:size]))).encode()


def test_growth_is_cosigned_step_by_step(witness: Witness, folder: Path) -> None:
    """Each answer verifies, what is kept is the log's and the witness's word, and a restart changes nothing."""
    old = 0
    for size in (0, 1, 7, 7, 16, 30):
        answer = witness.add_checkpoint(request(old, size), AT_S + size)
        assert answer.status == 200, answer
        note = Note.parse(checkpoint_of(KEPT[:size])).signed(*signature_lines(answer.text))
        assert open_checkpoint(note, LOG.key, [witness.key]).seen == {witness.key: AT_S + size}
        assert witness.last(hash_of(ORIGIN)) == note.encode()
        old, witness = size, Witness(folder, [LOG.key])


@pytest.mark.parametrize("old", [0, 9, 11, 20])
def test_it_reports_what_it_has_seen_to_new_readers(witness: Witness, old: int) -> None:
    """409 with the size, in the protocol's own type; nothing is kept."""
    assert witness.add_checkpoint(request(0, 10), AT_S).status == 200
    assert witness.add_checkpoint(request(old, 25), AT_S) == WitnessResponse(409, "10\n", "text/x.tlog.size")
    assert open_checkpoint(witness.last(hash_of(ORIGIN)) or b"", LOG.key).checkpoint.size == 10


def test_it_goes_neither_back_nor_sideways(witness: Witness) -> None:
    """A smaller log, another history with whatever proof, and another root for the size that was seen: refused."""
    assert witness.add_checkpoint(request(0, 20), AT_S).status == 200
    assert witness.add_checkpoint(request(20, 10, proof=[]), AT_S).status == 400
    assert witness.add_checkpoint(request(10, 15), AT_S).status == 409
    for raw in (
        request(20, 25, FORK),
        request(20, 25, FORK, tree.consistency_proof(WHOLE.subtree, 20, 25)),
        request(20, 25, proof=[]),
        request(20, 25, proof=[*tree.consistency_proof(WHOLE.subtree, 20, 25), b"h" * 32]),
        request(20, 20, FORK),
        request(20, 20, proof=[b"h" * 32]),
    ):
        assert witness.add_checkpoint(raw, AT_S).status == 422
    assert witness.add_checkpoint(request(20, 30), AT_S).status == 200


def test_two_roots_of_one_size_are_kept_as_evidence(
    witness: Witness, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both are signed by the log: a reader of them needs no witness any more."""
    assert witness.add_checkpoint(request(0, 20), AT_S).status == 200
    assert witness.add_checkpoint(request(20, 20, FORK), AT_S).status == 422
    (found,) = (folder / "evidence").iterdir()
    one = open_checkpoint(found.read_bytes(), LOG.key).checkpoint
    two = open_checkpoint(witness.last(hash_of(ORIGIN)) or b"", LOG.key).checkpoint
    assert one.size == two.size
    assert one.root != two.root
    assert "two histories" in caplog.text


def test_the_first_word_of_a_log_needs_no_proof_and_takes_none(witness: Witness) -> None:
    """And the empty log has one root."""
    assert witness.add_checkpoint(request(0, 5, proof=[b"h" * 32]), AT_S).status == 422
    odd = Checkpoint(ORIGIN, 0, b"r" * 32).sign(LOG)
    assert witness.add_checkpoint(Request(0, (), odd).encode(), AT_S).status == 422


def test_strangers_and_forgeries_are_refused(witness: Witness) -> None:
    """An unknown log, another key for a known name, a signature that does not verify, no checkpoint at all."""
    unknown = Note.parse(checkpoint_of(KEPT[:3], signer(9, "else.example/log")))
    assert witness.add_checkpoint(Request(0, (), unknown).encode(), AT_S).status == 404
    assert (
        witness.add_checkpoint(Request(0, (), Note.parse(checkpoint_of(KEPT[:3], OTHER))).encode(), AT_S).status == 403
    )
    good = Note.parse(checkpoint_of(KEPT[:3]))
    forged = good.signed(good.signatures[0]._replace(blob=b"\0" * 64))
    assert witness.add_checkpoint(Request(0, (), forged).encode(), AT_S).status == 403
    for raw in (b"", b"old 0\n", request(0, 3)[4:], request(0, 3).replace(b"old 0", b"old 00"), request(0, 3)[:-1]):
        assert witness.add_checkpoint(raw, AT_S).status == 400, raw
    many = b"old 1\n" + (b"A" * 43 + b"=\n") * 64 + b"\n" + good.encode()
    assert witness.add_checkpoint(many, AT_S).status == 400
    assert witness.last(hash_of(ORIGIN)) is None


def test_others_signatures_are_not_kept(witness: Witness) -> None:
    """What is served is the log's word and the witness's, whatever else was sent along."""
    more = Note.parse(checkpoint_of(KEPT[:3], LOG, STRANGER))
    assert witness.add_checkpoint(Request(0, (), more).encode(), AT_S).status == 200
    kept = Note.parse(witness.last(hash_of(ORIGIN)) or b"")
    assert [each.name for each in kept.signatures] == [ORIGIN, witness.key.name]


def test_what_it_has_seen_cannot_be_put_back_by_others(witness: Witness, folder: Path) -> None:
    """A state that this witness did not sign, or a damaged one, cosigns nothing until it is mended."""
    assert witness.add_checkpoint(request(0, 20), AT_S).status == 200
    seen = folder / "seen" / hash_of(ORIGIN)
    for raw in (checkpoint_of(KEPT[:5]), seen.read_bytes()[:-9], b""):
        seen.write_bytes(raw)
        with pytest.raises(SettingsError, match="damaged"):
            witness.add_checkpoint(request(5, 10), AT_S)
        with pytest.raises(SettingsError, match="damaged"):
            Witness(folder, [LOG.key])


def test_of_many_at_once_one_is_first(folder: Path) -> None:
    """Witnesses on one folder that are asked at the same moment, for two histories: one cosigns, the others refuse."""
    together = threading.Barrier(4)

    def ask(size: int) -> int:
        own, raw = Witness(folder, [LOG.key]), request(0, size, KEPT if size % 2 else FORK)
        together.wait(30)
        return own.add_checkpoint(raw, AT_S).status

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(ask, (12, 13, 14, 15))) == [200, 409, 409, 409]


@pytest.fixture
def served(witness: Witness) -> Iterator[TestClient]:
    """The witness over HTTP."""
    with TestClient(create_app(witness, lambda: AT_S), base_url="http://witness") as client:
        yield client


def proofs(kept: list[bytes], size: int) -> Callable[[int], Sequence[bytes]]:
    """What makes a log's consistency proofs."""
    whole = Tree(map(leaf_hash, kept))
    return lambda old: tree.consistency_proof(whole.subtree, old, size)


def asked(client: Any, witness: Witness, size: int, kept: list[bytes] | None = None, old: int = 0) -> Note:
    """Ask for a cosignature and add it."""
    kept = KEPT if kept is None else kept
    note = Note.parse(checkpoint_of(kept[:size]))
    made = proofs(kept, size)
    return note.signed(ask_witness("http://witness", witness.key, note, made, old=old, client=client))


def test_the_client_brings_a_cosignature_home(served: TestClient, witness: Witness) -> None:
    """Whatever it believed that the witness had seen."""
    client = served
    for size, old in ((5, 0), (9, 0), (9, 3), (30, 9)):
        note = asked(client, witness, size, old=old)
        assert open_checkpoint(note, LOG.key, [witness.key]).seen == {witness.key: AT_S}
        assert client.get(f"/{hash_of(ORIGIN)}/checkpoint").content == note.encode()
    assert client.get(f"/{hash_of('another')}/checkpoint").status_code == 404
    assert client.get("/..%2Fwitness.json/checkpoint").status_code == 404


def test_the_client_reports_a_log_that_went_back(served: TestClient, witness: Witness) -> None:
    """That is what a mint sees whose database was put back, and what a forked log gets."""
    asked(served, witness, 20)
    with pytest.raises(WitnessError, match="was rolled back"):
        asked(served, witness, 10)
    with pytest.raises(WitnessError, match="422"):
        asked(served, witness, 25, FORK)


def test_the_client_believes_no_answer_that_does_not_verify(witness: Witness) -> None:
    """Another key's line, none, a wrong one, too much of an answer, none at all."""
    note = Note.parse(checkpoint_of(KEPT[:5]))
    wrong = signer(7, witness.key.name, 4).sign(note.text, AT_S)
    answers = {
        "without a signature": (200, wrong.line()),
        "an invalid signature": (200, wrong._replace(key_id=witness.key.key_id).line()),
        "an invalid signature: malformed signature line": (200, "hello\n"),
        "more than": (200, "x" * 70_000),
        "without a size": (409, "many"),
        "503": (503, "later"),
    }
    for value, (status, text) in answers.items():
        transport = httpx.MockTransport(lambda _, status=status, text=text: httpx.Response(status, text=text))
        with httpx.Client(transport=transport) as client, pytest.raises(WitnessError, match=value):
            asked(client, witness, 5)
    with pytest.raises(WitnessError, match="does not answer"):
        ask_witness("http://127.0.0.1:9", witness.key, note, lambda _: [])


def test_a_request_that_is_too_large_is_not_read(served: TestClient) -> None:
    """413, whatever it is."""
    assert served.post("/add-checkpoint", content=b"x" * (MAX_REQUEST_BYTES + 1)).status_code == 413
    assert served.post("/add-checkpoint", content=b"x").status_code == 400
    assert served.get("/add-checkpoint").status_code == 405


def test_requests_are_written_as_they_are_read() -> None:
    """One form."""
    raw = request(7, 30)
    assert Request.parse(raw).encode() == raw
    with pytest.raises(NoteError):
        Request.parse(raw.replace(b"old 7", b"old x"))
    with pytest.raises((NoteError, TamperedError)):
        open_checkpoint(raw, LOG.key)
