# SPDX-License-Identifier: Apache-2.0
"""A holder could use a killed token without end, if the kill passed by the mint and the store lost it.

The mint compared the store with its database's mark alone, which only what it had done itself raised.  It refused
everything, and never ended the history; each verifier that started then knew nothing of the kill.  Started anew, the
mint took the old history for good, and its next kill got a number that the audit log had already.
"""

from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.revocation.store_history import MOST_AHEAD, REPORTS
from arx_caps.mint.runtime import MintRuntime
from arx_caps.revocation.store import RevocationStore
from tests.faults.going_back import play
from tests.mint.harness import make_realm
from tests.servers import until

pytestmark = pytest.mark.servers


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        pytest.param("session", "view", marks=pytest.mark.nightly),
        pytest.param("agent", "database", marks=pytest.mark.nightly),
        pytest.param("subject", "verifier", marks=pytest.mark.nightly),
        ("task", "log"),
        pytest.param("agent", "log", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.slow
def test_every_verifier_refuses_what_was_killed(tmp_path: Path, kind: str, known: str) -> None:
    """Within a lease and a second, a verifier that knows of the kill; no number is given twice in the audit log."""
    play(tmp_path, kind, known)


def test_a_verifier_that_makes_numbers_up_ends_few_histories(
    tmp_path: Path, realm_name: str, valkey: EmbeddedValkey
) -> None:
    """Its word ends three an hour, moves the sequence by a million each time, is recorded, and then counts no more."""
    mint = MintRuntime.open(make_realm(tmp_path / "realm", realm_name), store_url=valkey.url)
    with RevocationStore(valkey.url, realm_name) as store:
        mint.start()
        try:
            for _ in range(REPORTS):
                before = store.header()
                say(store, before.incarnation, "inf")
                until(lambda before=before: store.header().incarnation != before.incarnation)  # type: ignore[misc]
                assert store.header().seq == before.seq + MOST_AHEAD
            before = store.header()
            say(store, before.incarnation, str(before.seq + 5))
            until(lambda: mint.epochs.view()[0] == before.incarnation and not mint.ready())
            mint._check_store()
            assert store.header().place == before.place
            ahead = store.ahead()
            assert ahead is not None
            assert (ahead.verifier, ahead.seq) == ("liar", before.seq + 5)
            values = [event.facts for event in mint.db.outbox.after(0) if event.kind == "epoch.rotated"]
            assert [facts["verifier"] for facts in values] == ["liar"] * REPORTS
        finally:
            mint.close()


def say(store: RevocationStore, incarnation: str, number: str) -> None:
    """Probe as a verifier does that has applied an entry which no store sent it."""
    keys = (
        store.keys.header,
        store.keys.kills,
        store.keys.freezes,
        store.keys.log,
        store.keys.probes,
        store.keys.acks,
    )
    store.exchange.call("arx1_probe", keys, "liar", incarnation, number, "0" * 40, 1000)
