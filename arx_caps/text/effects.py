# SPDX-License-Identifier: Apache-2.0
"""What is known of the effects of calls, of the records of a log.  SPEC 12.8, LOG 3.7."""

from collections.abc import Collection, Container, Iterable, Mapping
from typing import Any, Final, NamedTuple

SILENT_MS: Final = 60_000  # a run that was not heard of for so long, and has a successor, may be over


class KnownEffect(NamedTuple):
    """The effect of one call.

    Attributes:
        result: ``done``, ``failed``, ``unknown``, or ``pending`` while its run may still record it.
        allowed: The record of the decision that allowed it, as the log shows it.
        record: The record of the effect, likewise; None without one.
    """

    result: str
    allowed: Mapping[str, Any]
    record: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        shown, record = self.allowed, self.record or {}
        found = {"decision": shown["id"], "result": self.result, "at": shown["at"], "tool": shown["tool"]}
        found |= {
            "service": shown["audience"] or shown["service"],
            "agent": shown["agent"],
            "session": shown["session"],
        }
        effect = record.get("effect") or {}
        found |= {name: effect[name] for name in ("status", "size", "digest", "took_ms") if name in effect}
        return found | ({"external_id": record["external_id"], "leaf": record["leaf"]} if record else {})


def known_effects(
    allowed: Iterable[Mapping[str, Any]], effects: Iterable[Mapping[str, Any]], over: Container[str]
) -> list[KnownEffect]:
    """Return the effects of calls, in the order of the log.

    Args:
        allowed: The records of decisions whose effects are awaited, as the log shows them.
        effects: The records of effects, likewise, by rising index; those of other calls are ignored.
        over: The boots of runs that had recorded all their effects before ``effects`` were read.
    """
    recorded: dict[str, Mapping[str, Any]] = {}
    for shown in effects:
        recorded.setdefault(shown["effect"]["of"], shown)  # a call has one effect: a later record of it does not count
    found = []
    for decision in {shown["id"]: shown for shown in allowed}.values():
        record = recorded.get(decision["id"])
        result = str(record["effect"]["result"]) if record else "unknown" if decision["boot"] in over else "pending"
        found.append(KnownEffect(result, decision, record))
    return sorted(found, key=lambda effect: int(effect.allowed["index"]))


def runs_over(runs: list[Mapping[str, Any]], alive: Collection[str] | None, now_ms: int) -> set[str]:
    """Return the boots of runs of a service that record nothing more.

    Args:
        runs: Its runs, the newest first, as the log lists them.
        alive: The ids of the verifiers that the store hears; None if it is not known.
        now_ms: The time, ms since the Unix epoch.
    """

    def is_gone(run: Mapping[str, Any]) -> bool:
        # A process that waits for an answer sends nothing meanwhile, but asks the store.  A fork adds its number.
        own = (run["verifier"], f"{run['verifier']}.")
        return alive is not None and not any(name == own[0] or name.startswith(own[1]) for name in alive)

    return {
        run["boot"]
        for place, run in enumerate(runs)
        if run["closed_at"] is not None or (place > 0 and now_ms - run["seen_at"] > SILENT_MS and is_gone(run))
    }
