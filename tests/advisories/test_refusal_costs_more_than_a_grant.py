# SPDX-License-Identifier: Apache-2.0
"""A caller could make a service work twice as much for a refusal as for a grant.

Each argument that was wrong was put into words for a record that may have no reader; a journal without room made each
record three times and raised twice before it was counted; a freeze was looked for by asking for each target's kill.
"""

from pathlib import Path

from arx_verifier.constraints.rule import Rule
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.writer import MIN_SEGMENT_BYTES, Journal
from arx_verifier.token.caveats import Caveat
from benchmarks import refusals
from benchmarks.counting import count
from benchmarks.rows import Verifiers
from tests.support import AT, access, mint, sign, verifier

TOLERANCE = 0.08  # a wrong argument, or a freeze, is reported; what both hash in C counts in pure Python alone
ENOUGH = 12  # that all is met before, and what a full journal keeps for refusals is used
LEAST_OF = 3  # now and then one draws salts for the next hundreds of them


def test_no_refusal_takes_more_than_its_grant(tmp_path: Path) -> None:
    """
    Bytecodes and calls of each refusal that a caller, a holder or a service's state brings about, beside the grant's.
    """
    made = Verifiers(tmp_path)
    for row in refusals.rows(made):
        counts = {}
        for name, batch in row.contenders.items():
            batch(ENOUGH)()
            counts[name] = min(count(batch(1)).work for _ in range(LEAST_OF))
        dearer = {name: work for name, work in counts.items() if work > counts["grant"] * (1 + TOLERANCE)}
        assert not dearer, (row.work, counts["grant"], dearer)
    made.close()


def test_a_journal_without_room_loses_no_count(tmp_path: Path) -> None:
    """
    A refusal for want of room, and any other refusal, is reported once: by a record or by a count.
    """
    size = MIN_SEGMENT_BYTES
    journal = Journal(tmp_path, "v1", "orders", segment_bytes=size, max_bytes=2 * size, clock=lambda: AT)
    checked, records = (
        verifier(decisions=journal),
        dict.fromkeys(("ok", "audit_unavailable", "argument_not_allowed"), 0),
    )
    right, wrong = access(args={"id": "o-1"}), access(args={"id": "o-2"})
    token = mint(Caveat(allow=(Rule(tool="orders.get", args={"id": "o-1"}),)))
    while records["audit_unavailable"] < 100:
        records[checked.decide(sign(token, right), right).code] += 1
        if records["audit_unavailable"]:
            records[checked.decide(sign(token, wrong), wrong).code] += 1
    checked.close()
    found = dict.fromkeys(records, 0)
    for decision in read_journal(tmp_path):
        for code, times in [(each.code, each.times) for each in decision.counts] or [(decision.code, 1)]:
            found[code] += times
    assert found == records
