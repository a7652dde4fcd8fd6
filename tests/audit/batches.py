# SPDX-License-Identifier: Apache-2.0
"""Batches of decisions as verifiers send them, and a log's database to put them into."""

from collections.abc import Sequence

from sqlalchemy import select

from arx_caps.audit.shipping.batch import Batch
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import SOURCE
from arx_caps.audit.store.transaction import Source
from arx_verifier.journal.decision import ChainFacts, Decision, Failure
from arx_verifier.journal.record import Sealed, seal

AUDIENCE = "orders"
BOOT = "b0b0b0b0b0b0"
START_MS = 1_800_000_000_000


def facts(session: str = "s-1", task: str | None = "t-1", *named: str, **more: object) -> ChainFacts:
    """Facts of a chain: a session of acme/bot, delegated to the names given."""
    links = tuple(f"{session}-{task}-" + "/".join(named[: n + 1]) for n in range(len(named)))
    values = {"agent": "acme/bot", "session": session, "task": task, "named": named, "links": links} | more
    return ChainFacts(token="tok", audience=AUDIENCE, policy="p", kid="k", **values)  # type: ignore[arg-type]


def decision(number: int, chain: ChainFacts, code: str = "ok", tool: str = "lookup", **more: object) -> Decision:
    """A decision at a time that its number says."""
    failures = () if code == "ok" else (Failure("tool", "rule", "expected", "came"),)
    return Decision(code, START_MS + number, chain, tool, failures=failures, peer="10.0.0.1", **more)  # type: ignore[arg-type]


def batch_of(
    decisions: Sequence[Decision],
    first: int = 1,
    boot: str = BOOT,
    *,
    lost_from: int | None = None,
    closed: bool = False,
    verifier: str = "orders-1",
) -> Batch:
    """A batch of decisions."""
    records: tuple[Sealed, ...] = tuple(
        seal(each.pack(), verifier, boot, sequence) for sequence, each in enumerate(decisions, first)
    )
    return Batch(verifier, AUDIENCE, boot, first, lost_from, records, closed)


def sources_of(store: LogStore) -> list[Source]:
    """Whose records a log has, in the order in which they came."""
    with store.reading() as c:
        return [Source(*row) for row in c.execute(select(*SOURCE.c).order_by(SOURCE.c.id))]
