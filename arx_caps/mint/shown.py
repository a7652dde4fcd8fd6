# SPDX-License-Identifier: Apache-2.0
"""What the API shows of rows: ids, times, and the state that the clock and the kill epoch make of a row.  SPEC 16.

A row says what the mint did; whether the thing still stands is the epoch's word, so a session that was killed straight
in the store is shown as killed.  No token, key or proof is ever shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from arx_caps.mint.core import Mint
from arx_caps.mint.identity import scopes_of, subject_of
from arx_caps.mint.state import now_ms
from arx_verifier.scopes import agent_scopes

STATES: Final = ("open", "ended", "expired", "killed", "frozen")
_OF_CODE: Final = {"revoked": "killed", "banned": "frozen"}


def show_agent(mint: Mint, row: Mapping[str, Any]) -> dict[str, Any]:
    """Show an agent."""
    state = row["status"]
    if state == "active" and _frozen(mint, agent_scopes(row["path"])):
        state = "frozen"
    return {
        "path": row["path"],
        "state": state,
        "owner": row["owner"],
        "metadata": msgspec.json.decode(row["metadata"]),
        "keys": [{"kid": key["kid"], "added_at": key["added_at"]} for key in mint.state.keys_of(row["path"])],
        "created_at": row["created_at"],
        "ended_at": row["ended_at"],
    }


def show_operator(mint: Mint, row: Mapping[str, Any]) -> dict[str, Any]:
    """Show an operator."""
    state = row["status"]
    if state == "active" and _frozen(mint, (f"operator:{row['id']}",)):
        state = "frozen"
    shown = {"name": row["id"], "state": state, "role": row["role"]}
    if row["rules"] is not None:
        shown["rules"] = msgspec.json.decode(row["rules"])
    shown["keys"] = mint.state.kids(f"operator:{row['id']}")
    return shown | {"created_at": row["created_at"], "ended_at": row["ended_at"]}


def show_session(mint: Mint, row: Mapping[str, Any]) -> dict[str, Any]:
    """Show a session."""
    shown = {name: row[name] for name in ("id", "agent", "purpose", "policy", "opened_at", "expires_at", "ended_at")}
    subject, opened_with = subject_of(row), row["opened_with"]
    shown["subject"] = None
    if subject is not None:
        (scope,) = scopes_of(subject)
        shown["subject"] = {"issuer": subject.issuer, "subject": subject.name, "scope": scope}
    shown["opened_with"] = msgspec.json.decode(opened_with) if opened_with is not None else None
    return shown | {"state": _state(mint, row, [f"session:{row['id']}", *scopes_of(subject)])}


def show_task(mint: Mint, row: Mapping[str, Any]) -> dict[str, Any]:
    """Show a task."""
    names = ("id", "session", "agent", "template", "policy", "link", "started_at", "expires_at", "ended_at")
    shown = {name: row[name] for name in names}
    shown |= {name: msgspec.json.decode(row[name]) for name in ("params", "audiences")}
    scopes = [f"task:{row['id']}", f"session:{row['session']}", f"link:{row['link']}"]
    if row["subject_scope"] is not None:
        scopes.append(row["subject_scope"])
    return shown | {"state": _state(mint, row, scopes)}


def _frozen(mint: Mint, scopes: Sequence[str]) -> bool:
    """Tell whether there is a ban on one of these, as far as the view goes."""
    _, applied, _ = mint.epochs.view()
    refused = mint.epochs.check(None, max(applied, 0), scopes)
    return refused is not None and refused.code == "banned"


def _state(mint: Mint, row: Mapping[str, Any], scopes: list[str]) -> str:
    if row["status"] != "open":
        return str(row["status"])
    if row["expires_at"] <= now_ms():
        return "expired"
    everything = ("realm", f"policy:{row['policy']}", *agent_scopes(row["agent"]), *scopes)
    refused = mint.epochs.check(row["inc"], row["born"], everything)
    return _OF_CODE.get(refused.code, "open") if refused is not None else "open"
