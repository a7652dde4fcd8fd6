# SPDX-License-Identifier: Apache-2.0
"""What is known of the effects of calls, of the records of a log, and as in-toto statements.  SPEC 12.8, LOG 3.7."""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

SILENT_MS: Final = 60_000  # a run that was not heard of for so long, and has a successor, is over
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "urn:arx:effect:1"


class KnownEffect(NamedTuple):
    """The effect of one call.

    Attributes:
        decision: The name of the decision that allowed it.
        result: ``done``, ``failed``, ``unknown``, or ``pending`` while its run may still record it.
        allowed: The record of the decision as the log shows it; None if it was not selected.
        record: The record of the effect, likewise; None without one.
    """

    decision: str
    result: str
    allowed: Mapping[str, Any] | None
    record: Mapping[str, Any] | None

    @property
    def shown(self) -> Mapping[str, Any]:
        """One of its records: both have agent, session and tool."""
        shown = self.allowed or self.record
        assert shown is not None
        return shown

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        shown, record = self.shown, self.record or {}
        found = {"decision": self.decision, "result": self.result, "at": shown["at"], "tool": shown["tool"]}
        found |= {
            "service": shown["audience"] or shown["service"],
            "agent": shown["agent"],
            "session": shown["session"],
        }
        effect = record.get("effect") or {}
        found |= {name: effect[name] for name in ("status", "size", "digest", "took_ms") if name in effect}
        return found | ({"external_id": record["external_id"], "leaf": record["leaf"]} if record else {})


def known_effects(
    records: Iterable[Mapping[str, Any]], runs: Callable[[str], list[Mapping[str, Any]]], now_ms: int
) -> list[KnownEffect]:
    """Return the effects of calls, in the order of the log.

    Args:
        records: Records as the log shows them, by rising index.
        runs: Returns the runs of a service, the newest first, as the log lists them.
        now_ms: The time, ms since the Unix epoch.
    """
    allowed: dict[str, Mapping[str, Any]] = {}
    recorded: dict[str, Mapping[str, Any]] = {}
    for shown in records:
        effect = shown.get("effect")
        if effect is not None and effect["result"] == "awaited":
            allowed.setdefault(shown["id"], shown)
        elif effect is not None:
            recorded.setdefault(effect["of"], shown)  # a call has one effect: a later record of it does not count
    over: dict[str, set[str]] = {}
    found = []
    for name in {**allowed, **recorded}:
        record, decision = recorded.get(name), allowed.get(name)
        if record is not None:
            result = str(record["effect"]["result"])
        else:
            service = allowed[name]["service"]
            if service not in over:
                over[service] = _over(runs(service), now_ms)
            result = "unknown" if allowed[name]["boot"] in over[service] else "pending"
        found.append(KnownEffect(name, result, decision, record))
    return sorted(found, key=lambda effect: int(effect.shown["index"]))


def _over(runs: list[Mapping[str, Any]], now_ms: int) -> set[str]:
    """Return the boots of runs that record nothing more."""
    return {
        run["boot"]
        for place, run in enumerate(runs)
        if run["closed_at"] is not None or (place > 0 and now_ms - run["seen_at"] > SILENT_MS)
    }


def statement_of(effect: KnownEffect) -> bytes | None:
    """Return the in-toto statement of an effect; None without the record of its decision.

    Args:
        effect: The effect.
    """
    if effect.allowed is None:
        return None
    subject = {"name": effect.decision, "digest": {"arx-leaf": effect.allowed["leaf"]}}
    statement = {"_type": _STATEMENT, "subject": [subject], "predicateType": _PREDICATE, "predicate": effect.to_dict()}
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def envelope_of(payload: bytes, keyid: str, sign: Callable[[bytes], bytes]) -> dict[str, Any]:
    """Return a DSSE envelope (https://github.com/secure-systems-lab/dsse).

    Args:
        payload: The payload, a statement of in-toto.
        keyid: The name of the key.
        sign: Signs with it.
    """
    kind = PAYLOAD_TYPE.encode()
    signature = sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
    signatures = [{"keyid": keyid, "sig": base64.b64encode(signature).decode()}]
    return {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": signatures}
