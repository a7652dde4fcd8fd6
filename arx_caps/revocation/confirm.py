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
    fence_s = bump.sent + fenced_after_ms(header.lease_ms + header.lag_ms) / 1000
    until = fence_s if timeout_ms is None else bump.sent + timeout_ms / 1000
    # A verifier with a lease from before the kill has probed at most one lease before it.
    since_ms = header.at_ms - header.lease_ms - MARGIN_MS
    pause = POLL_S[0]
    # A verifier probes again after applying the kill: this probe is its confirmation.
    while True:
        try:
            registry = unacked(header.seq, since_ms)
        except StoreError:
            return _report(bump, None, fence_s)
        if not registry.missing or time.monotonic() >= until:
            return _report(bump, registry, fence_s)
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
    unreachable = _names_of(seen)
    took_ms = float(max(0, seen.at_ms - at_ms))
    status, summary = write_summary(
        confirmed=seen.confirmed,
        verifiers=seen.verifiers,
        unreachable=unreachable,
        registry_age_ms=at_ms - seen.since_ms,
        lease_ms=header.lease_ms,
        at_risk=name_risk(True, replicas, header.replicas),
        took_ms=took_ms,
        lag_ms=header.lag_ms,
        watching=seen.watching,
    )
    fence_ms = fenced_after_ms(header.lease_ms + header.lag_ms) - took_ms
    return {
        "status": status,
        "verifiers": seen.verifiers,
        "confirmed": seen.confirmed,
        "unreachable": unreachable,
        "watching": seen.watching,
        "fenced_in_ms": None if status == "confirmed" else max(0, round(fence_ms)),
        "took_ms": took_ms,
        "summary": summary,
    }


def _names_of(registry: Registry) -> tuple[str, ...]:
    """Return the verifiers that have not confirmed, and the relays with the number of their verifiers."""
    return tuple(name if n == 1 else f"{name}, {n} verifiers" for name, _, _, n in registry.missing)


def _report(bump: Bump, registry: Registry | None, fence_s: float) -> KillReport:
    now = time.monotonic()
    header, took_ms = bump.header, (now - bump.sent) * 1000
    seen = registry or Registry(header.at_ms, header.at_ms, 0, 0, ())
    unreachable = _names_of(seen)
    confirmed = seen.confirmed
    status, summary = write_summary(
        confirmed=confirmed,
        verifiers=seen.verifiers,
        unreachable=unreachable,
        registry_age_ms=header.at_ms - seen.since_ms,
        lease_ms=header.lease_ms,
        at_risk=bump.at_risk,
        took_ms=took_ms,
        lag_ms=header.lag_ms,
        watching=seen.watching,
    )
    if registry is None:
        fence = f"+{fenced_after_ms(header.lease_ms + header.lag_ms) / 1000:.3f} s"
        risk = f"NOT DURABLE, {bump.at_risk}; " if bump.at_risk else ""
        summary = f"{status}: {risk}in force; the store stopped answering; leases end by {fence}"
    return KillReport(
        targets=bump.targets,
        seq=header.seq,
        incarnation=header.incarnation,
        durable=bump.durable,
        status=status,
        verifiers=seen.verifiers,
        confirmed=confirmed,
        unreachable=unreachable,
        fenced_in_ms=None if status == "confirmed" else max(0, round((fence_s - now) * 1000)),
        took_ms=round(took_ms, 3),
        at_ms=header.at_ms,
        summary=summary,
        lag_ms=header.lag_ms,
        watching=seen.watching,
    )
