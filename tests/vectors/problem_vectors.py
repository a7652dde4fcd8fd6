# SPDX-License-Identifier: Apache-2.0
"""Vectors of refusals over HTTP (SPEC 13): status, headers, and the body of RFC 9457, but for its sentence."""

from typing import Any

Vectors = dict[str, dict[str, Any]]
# SPEC 13: code, status, title, RFC 6750 error, retry.
_ROWS = """
missing_token|401|Unauthorized||with a token
malformed_request|400|Bad Request|invalid_request|with a well-formed request
malformed|401|Unauthorized|invalid_token|with a new token
revoked|401|Unauthorized|invalid_token|no
missing_discharge|403|Forbidden|insufficient_scope|after approval
argument_not_allowed|403|Forbidden|insufficient_scope|no
request_unseen|403|Forbidden||no
insufficient_budget|403|Forbidden|insufficient_scope|no
proof_invalid|401|Unauthorized|invalid_token|sign anew
stale|503|Service Unavailable||after Retry-After
audit_unavailable|503|Service Unavailable||after Retry-After
"""
ROWS = {row.partition("|")[0]: row.split("|")[1:] for row in _ROWS.split("\n") if row}
AMOUNT = {"place": "caveat 2", "rule": "amount max", "expected": "20", "came": "50"}
ODD = {"place": "caveat 1", "rule": 'a"\u2028', "expected": '"é"', "came": '"<b>\U0001f600"'}


def vectors() -> Vectors:
    """All of this file."""
    found = {f"problem-{code.replace('_', '-')}": problem(code, f"the code {code} alone") for code in ROWS}
    budget = {"pool": "b-1", "hop": "acme/worker", "unit": "usd", "remaining": "0.3", "required": "1"}
    spend = {"place": "caveat 2", "rule": "spend", "expected": "1 usd", "came": "0.3 usd left"}
    return found | {
        "problem-failure": problem("argument_not_allowed", "a failure, and the decision", "0123456789ab-41", [AMOUNT]),
        "problem-failures": problem("argument_not_allowed", "failures in order", "0123456789ab-42", [AMOUNT, ODD]),
        "problem-start": problem(
            "proof_invalid",
            "the failure by which a client knows that it may sign anew by itself (SPEC 8.3)",
            "0123456789ab-43",
            [{"place": "call", "rule": "start", "expected": "after this service started", "came": "an earlier one"}],
        ),
        "problem-budget": problem(
            "insufficient_budget", "what the pool has left (SPEC 17.4)", "0123456789ab-44", [spend], budget
        ),
        "problem-realm": problem("malformed", "a realm's longest name", realm="a" * 32),
    }


def problem(
    code: str,
    comment: str,
    decision: str = "",
    failures: list[dict[str, str]] | None = None,
    budget: dict[str, str] | None = None,
    realm: str = "acme",
) -> dict[str, Any]:
    """One vector."""
    status, title, error, retry = ROWS[code]
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": int(status), "code": code, "retry": retry}
    body |= {"decision": decision} if decision else {}
    body |= {"failures": failures} if failures else {}
    body |= {"budget": budget} if budget else {}
    headers: dict[str, Any] = {"cache-control": "no-store", "content-type": "application/problem+json"}
    if status in ("401", "403") or error:
        headers["www-authenticate"] = {"realm": realm} | ({"error": error} if error else {})
    if status == "503":
        headers["retry-after"] = "1"
    refusal: dict[str, Any] = {"code": code, "failures": failures or []}
    return {
        "comment": comment,
        "spec": "13",
        "realm": realm,
        "decision": decision,
        "refusal": refusal | ({"budget": budget} if budget else {}),
        "expect": {"status": int(status), "headers": headers, "body": body},
    }
