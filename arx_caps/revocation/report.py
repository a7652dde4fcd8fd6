# SPDX-License-Identifier: Apache-2.0
"""Report a kill: which verifiers confirmed it, which did not, and when the last old lease ends.  SPEC 10.

``confirm`` asks the store.
"""

from typing import Any, Final, Literal, Self

import msgspec

from arx_caps.revocation.wire import Header, Registry

DRIFT: Final = 1e-3  # how much faster or slower a verifier's clock may run
CRASH: Final = "a crash of the store could undo it"
FAILOVER: Final = "a failover of the store could undo it: set `replicas` in realm.toml, the server "


# A verifier confirms by the probe that it sends after applying the kill.  A verifier that could still accept holds a
# lease, and only a probe grants one: a registry older than a lease contains all of them.  A younger or empty registry
# proves nothing, and the status is then never `confirmed`.
def fenced_after_ms(lease_ms: int) -> float:
    """Return how long after a kill the last lease from before it ends, ms.

    Args:
        lease_ms: The longest lease in force, ms.
    """
    return lease_ms * (1 + DRIFT)


def name_risk(on_disk: bool, replicas: int, shown: int) -> str:
    """Return what could still undo an acknowledged kill; empty if nothing could.

    Args:
        on_disk: Whether it is on the primary's disk, and on those of ``replicas`` replicas.
        replicas: How many replicas a kill waits for.
        shown: Number of replicas that may be promoted; -1 if the server hides it.
    """
    if not on_disk:
        return CRASH
    if replicas or shown == 0:
        return ""
    # No kill waited for a replica, so the one that is promoted may lack it.
    return FAILOVER + ("hides whether it has replicas" if shown < 0 else "has a replica, or had one within a day")


class KillReport(msgspec.Struct, frozen=True):
    """The known facts about one kill, freeze or thaw.

    Attributes:
        targets: Its targets.
        seq: Its place in the realm's kill sequence; with several targets, the last one.
        incarnation: The history it belongs to.
        durable: Whether no crash and no failover of the store can undo it.
        status: ``confirmed`` (by every verifier), ``partial`` (not by some, whose leases end, or that
            watch), ``unconfirmed`` (in
            force, but the registry may not contain every verifier), or ``unknown`` (the store did not answer).
        verifiers: Number of verifiers in the registry.
        confirmed: Number of them that have it in force.
        unreachable: The others.
        fenced_in_ms: From this report until every lease from before it has ended; None when all confirmed or nothing is
            known, 0 when that time has passed.
        watching: Those of ``verifiers`` that let calls go on in watch mode: they never confirm.
        lag_ms: How long a primary deposed within the last minute may still grant leases, which the wait includes.
        took_ms: From the call to this report.
        at_ms: When the store took it, by the store's clock, ms since the Unix epoch; -1 if unknown.
        summary: One line for people.
    """

    targets: tuple[str, ...]
    seq: int
    incarnation: str
    durable: bool
    status: Literal["confirmed", "partial", "unconfirmed", "unknown"]
    verifiers: int
    confirmed: int
    unreachable: tuple[str, ...]
    fenced_in_ms: int | None
    took_ms: float
    at_ms: int
    summary: str
    lag_ms: int
    watching: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return values

    @classmethod
    def unknown(cls, targets: tuple[str, ...], took_ms: float, why: str) -> Self:
        """Return the report of an unknown outcome: it may be in force, and must be repeated.

        Args:
            targets: The targets.
            took_ms: From the call to this report, ms.
            why: Why it is unknown.
        """
        summary = f"unknown: {why}; repeat it until it is confirmed, repeating is harmless"
        return cls(targets, -1, "", False, "unknown", 0, 0, (), None, took_ms, -1, summary, 0, ())


def write_summary(seen: Registry, header: Header, at_ms: int, at_risk: str, took_ms: float) -> tuple[str, str]:
    """Return the status and the summary of a kill.

    Args:
        seen: The registry.
        header: The state of the history.
        at_ms: When the store took the kill, by its clock, ms since the Unix epoch.
        at_risk: What could still undo it; empty if it is durable.
        took_ms: Its age, ms.

    Returns:
        The status, as ``KillReport.status``, and one line for people.
    """
    count, watching, unreachable = f"{seen.confirmed} of {seen.verifiers}", seen.watching, seen.unreachable
    lease_ms, age_ms = header.lease_ms + header.lag_ms, at_ms - seen.since_ms
    fence = f"+{fenced_after_ms(lease_ms) / 1000:.3f} s"
    if header.lag_ms:
        fence += f" (the store failed over within the last minute: lease + {header.lag_ms / 1000:g} s)"
    if seen.verifiers == 0:
        status, line = "unconfirmed", f"in force; no verifier has reported; leases end by {fence}"
    elif age_ms <= lease_ms:
        age = f"the registry is younger than a lease ({max(0, age_ms) / 1000:.1f} s)"
        status, line = "unconfirmed", f"in force at {count} known verifiers, but {age}; leases end by {fence}"
    elif unreachable:
        missing = seen.verifiers - seen.confirmed - len(watching)
        shown = ", ".join(unreachable[:3]) + (", …" if len(unreachable) > 3 else "")
        status, their = "partial", "its lease" if missing == 1 else "their leases"
        line = f"{count} verifiers, {missing} ({shown}) unreachable, fenced by {their} at {fence}"
        if missing == 0:  # relays without a verifier behind them at their last probe
            line = f"{count} verifiers; those that came to ({shown}) since are fenced by a lease at {fence}"
    else:
        status = "partial" if watching else "confirmed"
        line = f"{count} verifiers in {took_ms:.1f} ms"
    if watching:
        shown = "; ".join(watching[:3]) + ("; …" if len(watching) > 3 else "")
        line += f"; {len(watching)} watching ({shown}): there a caller without its token goes on"
    if at_risk:
        status, line = "unconfirmed", f"NOT DURABLE, {at_risk}; {line}"
    return status, f"{status}: {line}"
