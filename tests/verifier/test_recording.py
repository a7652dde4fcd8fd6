# SPDX-License-Identifier: Apache-2.0
"""What a verifier writes of a call: who asked it in which trace, and the arguments where the operator said so."""

import hashlib
from pathlib import Path

import pytest

from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import SettingsError
from arx_verifier.journal.decision import InMemoryDecisions, unpack_record
from arx_verifier.journal.record import seal
from arx_verifier.journal.writer import Journal
from arx_verifier.metrics.counted_decisions import CountedDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.service import open_verifier
from arx_verifier.token.caveats import Caveat
from tests.support import ANYTHING, AT, FullDecisions, access, mint, verifier
from tests.verifier.journals import service_file
from tests.verifier.serving import Realm, answered

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.spec("12.3")
def test_the_subject_keeps_issuer_and_subject_apart() -> None:
    """Two subjects whose joined texts were the same are two."""
    sink = InMemoryDecisions(clock=lambda: AT)
    checked = verifier(decisions=sink)
    for subject in (("https://a b", "c"), ("https://a", "b c")):
        assert checked.decide(mint(ANYTHING, subject=subject, model="m-1").encode(), access()).allowed
    assert [decision.subject for decision in sink.decisions] == [("https://a b", "c"), ("https://a", "b c")]
    assert sink.decisions[0].to_dict()["subject"] == {"issuer": "https://a b", "subject": "c"}
    assert {decision.model for decision in sink.decisions} == {"m-1"}


@pytest.mark.spec("12.5")
def test_arguments_are_recorded_only_where_the_operator_asks_for_it() -> None:
    """Named tools have their arguments in the record, whose digest they prove; others have the digest alone."""
    checked = verifier(record_arguments=("orders.*",))
    token = mint(ANYTHING).encode()
    kept = checked.decide(token, access("orders.get", {"id": "A-1", "amount": 2}))
    assert kept.arguments == b'{"amount":2,"id":"A-1"}'
    assert hashlib.sha256(kept.salt + kept.arguments).digest() == kept.args_digest
    assert checked.decide(token, access("mail.send", {"id": "A-1"})).arguments is None
    long = checked.decide(token, access("orders.get", {"id": "A" * 9000}))
    assert (long.arguments, len(long.args_digest)) == (b"", 32)
    with pytest.raises(SettingsError):
        verifier(record_arguments=("orders get",))


@pytest.mark.spec("12.3")
def test_what_each_delegation_removed_is_recorded() -> None:
    """Each delegation has its caveats since the one before, without its hop; the mint's first caveat is left out."""
    sink = InMemoryDecisions(clock=lambda: AT)
    checked = verifier(decisions=sink)
    fewer = Caveat(allow=(Rule(tool="orders.get"),), exp=AT + 1000)
    for _ in range(2):  # twice: the second chain differs in its hops alone, and shares the first one's caveats
        first = mint(ANYTHING).delegate("acme/worker", fewer).attenuate(Caveat(depth=1))
        assert checked.decide(first.delegate("acme/helper").encode(), access()).allowed
    assert checked.decide(mint(ANYTHING).encode(), access()).allowed
    own = f'{{"allow":[{{"tool":"orders.get"}}],"exp":{AT + 1000},"to":"acme/worker"}}'
    steps = ((own,), ('{"depth":1}', '{"to":"acme/helper"}'))
    assert [decision.facts.caveats for decision in sink.decisions] == [steps, steps, ()]
    read = unpack_record(*seal(sink.decisions[0].pack(), "orders-1", "0123456789ab", 1))
    assert (read.facts.caveats, read.to_dict()["caveats"]) == (steps, steps)


@pytest.mark.spec("12.3")
def test_long_caveats_are_not_in_each_record() -> None:
    """A token of many long caveats does not fill a journal with them; a chain that is refused has those before."""
    checked = verifier()
    tools = tuple(Rule(tool=f"orders.{number:080}") for number in range(24))
    decision = checked.decide(mint(ANYTHING).delegate("acme/worker", Caveat(allow=tools)).encode(), access())
    assert (decision.named, decision.facts.caveats) == (("acme/worker",), ())
    deep = mint(ANYTHING, depth=1).delegate("acme/worker").delegate("acme/helper")
    decision = checked.decide(deep.encode(), access())
    assert (decision.code, decision.facts.caveats) == ("too_deep", (('{"to":"acme/worker"}',),))


@pytest.mark.spec("12.3")
def test_a_request_is_recorded_with_its_ids() -> None:
    """The protocol's id and the trace context go from the request into the record."""
    request = AccessRequest("orders.get", {}, AT, "10.0.0.1", None, "rq-7", TRACE)
    decision = verifier().decide(mint(ANYTHING).encode(), request)
    assert (decision.request_id, decision.traceparent) == ("rq-7", TRACE)
    assert request.after(1_000_000_000).request_id == "rq-7"


@pytest.mark.spec("12.11")
def test_a_box_comes_from_its_header() -> None:
    """A decision has the box of its one header if that is known; a refusal has it, and other texts are none."""
    realm = Realm()
    for stated, recorded in ((b"none", "none"), (b"bubblewrap", "bubblewrap"), (b"None", None), (b"\xff", None)):
        headers = [(b"x-arx-box", stated)]
        assert answered(realm, "/orders/A-1", realm.token().encode(), headers=headers).status == 200
        assert realm.sink.decisions[-1].box == recorded
        answered(realm, "/orders/B-1/refund", realm.token().encode(), headers=headers, method="POST")
        assert (realm.sink.decisions[-1].allowed, realm.sink.decisions[-1].box) == (False, recorded)


def test_a_trace_context_comes_from_its_header() -> None:
    """Only what is one in form is recorded: the header is a stranger's text."""
    realm = Realm()
    for header, recorded in ((TRACE, TRACE), ("00-xyz", None), (TRACE + "x", None), (TRACE.upper(), None)):
        lines = [(b"traceparent", header.encode())]
        assert answered(realm, "/orders/A-1", realm.token().encode(), headers=lines).status == 200
        assert realm.sink.decisions[-1].traceparent == recorded


@pytest.mark.spec("12.5")
def test_a_service_file_says_how_to_record(tmp_path: Path) -> None:
    """Mode, budget and the tools whose arguments are recorded; what makes no sense is refused."""
    more = {"journal": str(tmp_path / "j"), "journal_mode": "durable", "journal_bytes": 1 << 20}
    opened = open_verifier(service_file(tmp_path, **more, record_arguments=["orders.get"]), epochs=UnsafeLocalEpochs())
    assert isinstance(opened.decisions, CountedDecisions)
    assert isinstance(opened.decisions.sink, Journal)
    assert opened.waits
    opened.close()
    for wrong in ({"journal_mode": "loose"}, {"journal_bytes": 10}, {"record_arguments": ["a b"]}):
        with pytest.raises(SettingsError):
            open_verifier(service_file(tmp_path, **more | wrong), epochs=UnsafeLocalEpochs())


def test_a_verifier_says_whether_it_can_allow(tmp_path: Path) -> None:
    """Not without a view of the epoch, and not with a full journal."""
    epochs = UnsafeLocalEpochs()
    journal = Journal(tmp_path, "v1", "orders", segment_bytes=1 << 16, max_bytes=1 << 16)
    checked = verifier(epochs=epochs, decisions=journal)
    assert checked.readiness() == (True, None, 0.0)
    token = mint(ANYTHING, born=(epochs.incarnation, epochs.seq)).encode()
    while checked.decide(token, access()).allowed:
        pass
    assert checked.readiness() == (False, "audit_unavailable", 1.0)
    checked.close()
    assert checked.readiness().why == "closed"
    assert verifier(decisions=FullDecisions()).readiness().fill == 0.0
