# SPDX-License-Identifier: Apache-2.0
"""Wait until every verifier has confirmed a kill, or until its lease has ended.  SPEC 10.

``report`` computes the status.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from arx_caps.revocation.report import KillReport, fenced_after_ms, name_risk, write_summary
from arx_caps.revocation.wire import Bump, Header, Registry
from arx_verifier.errors import StoreError

POLL_S: Final = (0.000_2, 0.001_5)  # most verifiers confirm within a millisecond; for the rest, polling slows down
MARGIN_MS: Final = 100  # for a probe that was on its way when the store took the kill


def wait_confirmed(unacked: Callable[[int, int], Registry], bump: Bump, timeout_ms: int | None = None) -> KillReport:
    """Wait for the confirmations of a bump, and report them.

    Args:
        unacked: Asks the store for the verifiers that probed since a time (ms) and have not applied a sequence.
        bump: The acknowledged kill, freeze or thaw.
        timeout_ms: How long to wait from the call on, ms; until the last lease ends when omitted.

    Returns:
        The report, even if the store stops answering meanwhile: the bump is in force by then.
    """
    header = bump.header
    wait_ms = fenced_after_ms(header.lease_ms + header.lag_ms) if timeout_ms is None else timeout_ms
    until = bump.sent + wait_ms / 1000
    # A verifier with a lease from before the kill has probed at most one lease before it.
    since_ms = header.at_ms - header.lease_ms - MARGIN_MS
    pause = POLL_S[0]
    # A verifier probes again after applying the kill: this probe is its confirmation.
    while True:
        try:
            registry = unacked(header.seq, since_ms)
        except StoreError:
            return _report(bump, None)
        if not registry.missing or time.monotonic() >= until:
            return _report(bump, registry)
        time.sleep(pause)
        pause = min(2 * pause, POLL_S[1])


def report_row(
    unacked: Callable[[int, int], Registry], header: Header, seq: int, at_ms: int, replicas: int
) -> dict[str, Any]:
    """Report a kill of this or another process as it is now.

    Args:
        unacked: Asks the store for the verifiers that probed since a time (ms) and have not applied a sequence.
        header: The state of the history, which is the kill's.
        seq: The kill's place in it.
        at_ms: When the store took the kill, by its clock, ms since the Unix epoch.
        replicas: How many replicas a kill waits for.

    Returns:
        Members of ``KillReport``, in which ``took_ms`` is the kill's age.

    Raises:
        StoreError: The store did not answer.
    """
    seen = unacked(seq, at_ms - header.lease_ms - MARGIN_MS)
    return _describe(seen, header, at_ms, name_risk(True, replicas, header.replicas), float(max(0, seen.at_ms - at_ms)))


def _report(bump: Bump, registry: Registry | None) -> KillReport:
    header, took_ms = bump.header, (time.monotonic() - bump.sent) * 1000
    seen = registry or Registry(header.at_ms, header.at_ms, 0, 0, ())
    facts = _describe(seen, header, header.at_ms, bump.at_risk, took_ms)
    if registry is None:
        fence = f"+{fenced_after_ms(header.lease_ms + header.lag_ms) / 1000:.3f} s"
        risk = f"NOT DURABLE, {bump.at_risk}; " if bump.at_risk else ""
        facts["summary"] = f"{facts['status']}: {risk}in force; the store stopped answering; leases end by {fence}"
    return KillReport(
        targets=bump.targets,
        seq=header.seq,
        incarnation=header.incarnation,
        durable=bump.durable,
        at_ms=header.at_ms,
        lag_ms=header.lag_ms,
        **facts,
    )


def _describe(seen: Registry, header: Header, at_ms: int, at_risk: str, took_ms: float) -> dict[str, Any]:
    """Return the members of ``KillReport`` that follow from the registry and the kill's age.

    Args:
        seen: The registry.
        header: The state of the history.
        at_ms: When the store took the kill, by its clock, ms since the Unix epoch.
        at_risk: What could still undo it; empty if it is durable.
        took_ms: Its age, ms.
    """
    status, summary = write_summary(seen, header, at_ms, at_risk, took_ms)
    fence_ms = fenced_after_ms(header.lease_ms + header.lag_ms) - took_ms
    return {
        "status": status,
        "verifiers": seen.verifiers,
        "confirmed": seen.confirmed,
        "unreachable": seen.unreachable,
        "watching": seen.watching,
        "fenced_in_ms": None if status == "confirmed" else max(0, round(fence_ms)),
        "took_ms": round(took_ms, 3),
        "summary": summary,
    }
