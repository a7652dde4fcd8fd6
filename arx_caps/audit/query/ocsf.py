# SPDX-License-Identifier: Apache-2.0
"""Convert records to events of OCSF 1.8 (https://schema.ocsf.io/1.8.0/), for collectors of security events.  LOG 3.

A call becomes *API Activity* (6003), an opened session or a started task *Authorize Session* (3003).
"""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final

from arx_verifier.errors import Failure

VERSION: Final = "1.8.0"
API_ACTIVITY: Final = 6003
AUTHORIZE_SESSION: Final = 3003
_SEVERITY: Final = {"allow": 1, "event": 1, "deny": 3, "end": 3, "would_refuse": 3, "effect": 1, "counted": 3, "gap": 4}
_SEVERITIES: Final = {1: "Informational", 3: "Medium", 4: "High"}
_BEGINS: Final = ("session.opened", "task.started")
_CREATE, _READ, _UPDATE, _DELETE, _OTHER = 1, 2, 3, 4, 99
# Usual meaning of the last part of a tool's or an event's name.  It is a guess; collectors see it in `activity_name`.
_VERBS: Final = {
    **dict.fromkeys(("get", "list", "read", "search", "find", "show", "query"), _READ),
    **dict.fromkeys(("create", "add", "new", "open", "opened", "start", "started", "enrolled", "insert"), _CREATE),
    **dict.fromkeys(("update", "set", "put", "edit", "write", "change", "changed"), _UPDATE),
    **dict.fromkeys(("delete", "remove", "removed", "drop", "cancel"), _DELETE),
}
_OF_EVENT: Final = ("index", "leaf", "type", "kind", "by", "named", "facts", "problem")
_OF_DECISION: Final = (
    "index", "leaf", "type", "id", "outcome", "code", "named", "links", "task", "tasks", "token", "model", "assurance",
    "holders", "signed", "args_digest", "incarnation", "applied", "age_ms", "counts", "gap", "watched", "group",
    "effect", "external_id", "credential", "marks", "box", "verifier", "boot",
)  # fmt: skip
# Of the profile `security_control`: a call that went on in watch mode was observed, and neither allowed nor denied.
_OBSERVED: Final = {"action_id": 3, "action": "Observed", "disposition_id": 17, "disposition": "Logged"}
_ACTIVITIES: Final = {_CREATE: "Create", _READ: "Read", _UPDATE: "Update", _DELETE: "Delete"}


def to_ocsf(shown: Mapping[str, Any], *, origin: str, version: str) -> dict[str, Any]:
    """Return a record as an OCSF event.

    Args:
        shown: The record as the log shows it (LOG 3.2).
        origin: The log's name.
        version: ARx's version.
    """
    if shown["type"] == "event" and shown["kind"] in _BEGINS:
        return _authorize_session(shown, _base(shown, AUTHORIZE_SESSION, 1, "Assign Privileges", origin, version))
    name = shown["kind"] if shown["type"] == "event" else shown.get("tool", "")
    activity = _VERBS.get(str(name).rpartition(".")[2].lower(), _OTHER)
    event = _base(shown, API_ACTIVITY, activity, _ACTIVITIES.get(activity, str(name) or "unknown"), origin, version)
    if shown["type"] == "decision":
        return _api_activity(shown, event)
    by = str(shown.get("by", "")) or "mint"
    event |= {"actor": {"app_name": by}, "api": {"operation": str(name) or "unknown"}}
    return event | {"src_endpoint": {"svc_name": "arx.mint"}}


def _base(
    shown: Mapping[str, Any], kind: int, activity: int, activity_name: str, origin: str, version: str
) -> dict[str, Any]:
    outcome = shown.get("outcome", "event")
    severity = _SEVERITY.get(outcome, 1)
    result = shown["effect"]["result"] if outcome == "effect" else None
    if result in ("failed", "unknown"):
        severity = 3
    product = {"name": "ARx", "vendor_name": "ARx", "version": version}
    metadata: dict[str, Any] = {"version": VERSION, "product": product, "log_name": origin, "sequence": shown["index"]}
    metadata["uid"] = f"{origin}#{shown['index']}"
    if shown.get("traceparent"):
        metadata["correlation_uid"] = shown["traceparent"]
    watched = outcome == "would_refuse" or bool(shown.get("watched"))
    if watched:
        metadata["profiles"] = ["security_control"]
    success, detail = outcome in ("allow", "event") or result == "done", _detail(shown)
    status, code = (0, "Unknown") if result == "unknown" else (2, "Failure"), result or shown.get("code")
    return {
        **(_OBSERVED if watched else {}),
        "category_uid": kind // 1000,
        "category_name": "Application Activity" if kind == API_ACTIVITY else "Identity & Access Management",
        "class_uid": kind,
        "class_name": "API Activity" if kind == API_ACTIVITY else "Authorize Session",
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": kind * 100 + activity,
        "severity_id": severity,
        "severity": _SEVERITIES[severity],
        "status_id": 1 if success else status[0],
        "status": "Success" if success else status[1],
        **({} if success else {"status_code": code}),
        **({"status_detail": detail} if detail else {}),
        "time": shown["at"] or 0,
        "metadata": metadata,
        "unmapped": {"arx": _unmapped(shown)},
    }


def _api_activity(shown: Mapping[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    user = _user(shown)
    policy = {"uid": shown["policy"]} if shown["policy"] else None
    decided: dict[str, Any] = {"decision": "allowed" if shown["outcome"] in ("allow", "effect") else "denied"}
    actor: dict[str, Any] = {"user": user, "authorizations": [decided | ({"policy": policy} if policy else {})]}
    if shown["session"]:
        # A sub-agent's name is what the previous holder wrote: ``unmapped`` has the whole chain.
        actor |= {"session": {"uid": shown["session"]}, "app_name": shown["agent"], "app_uid": shown["agent"]}
    service = shown["audience"] or shown["service"]
    api: dict[str, Any] = {"operation": shown["tool"] or shown["code"], "service": {"name": service}}
    if shown["request_id"]:
        api["request"] = {"uid": shown["request_id"]}
    event |= {"actor": actor, "api": api, "resources": [{"name": service, "type": "service"}]}
    event["dst_endpoint"] = {"svc_name": service}
    event["src_endpoint"] = _endpoint(shown["peer"] or shown["agent"] or "unknown")
    return event


def _authorize_session(shown: Mapping[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    named, facts = shown["named"], shown["facts"] or {}
    agent = named.get("agent") or facts.get("agent") or shown["by"]
    event["user"] = {"uid": agent, "name": agent, "type_id": 3, "type": "System"}
    event["session"] = {"uid": named.get("session") or facts.get("session") or ""}
    template = facts.get("template") or named.get("task") or named.get("policy") or shown["kind"]
    event["privileges"] = [str(template)]
    event["actor"] = {"app_name": shown["by"]}
    return event


def _endpoint(peer: str) -> dict[str, str]:
    """Return the endpoint of a caller: an IP address, or the name of a socket."""
    try:
        ip_address(peer)
    except ValueError:
        return {"name": peer}
    return {"ip": peer}


def _user(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OCSF user: the subject, else the agent, else "unknown"."""
    subject = shown["subject"]
    if subject is not None:
        return {"uid": subject["subject"], "domain": subject["issuer"], "type_id": 1, "type": "User"}
    agent = shown["agent"] or "unknown"
    return {"uid": agent, "name": agent, "type_id": 3, "type": "System"}


def _detail(shown: Mapping[str, Any]) -> str:
    return "; ".join(str(Failure(**failure)) for failure in shown.get("failures") or ())


# Members that OCSF has no name for.  The leaf's hash is among them: OCSF's fingerprints are of the exported event.
def _unmapped(shown: Mapping[str, Any]) -> dict[str, Any]:
    names = _OF_DECISION if shown["type"] == "decision" else _OF_EVENT
    return {name: shown[name] for name in names if shown.get(name) not in (None, "", [], ())}
