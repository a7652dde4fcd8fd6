# SPDX-License-Identifier: Apache-2.0
"""A refusal as a language model reads it: one short sentence, what to do now, and the decision's id.

The whole answer, with places and rules, stays in the record and in ``application/problem+json``.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from arx_verifier.errors import REASONS, ArxError, Failure

MAX_FAILURES: Final = 3  # conditions in one sentence; more would not be read
MAX_SENTENCE: Final = 600  # characters: a prompt holds many of them

_DECISION: Final = re.compile(r"[0-9a-f]{1,32}-[0-9]{1,20}")
# By the ``retry`` of a reason code.
_ADVICE: Final = {
    "no": "Do not repeat this call. Make one that is allowed, or say that this is not permitted.",
    "after approval": (
        "Do not repeat this call before an operator has approved it."
        " Say that the approval is needed, and go on without it."
    ),
    "sign anew": "You may try this call once more.",
    "after Retry-After": "Try this call again in some seconds.",
    "with a new token": "No other call will work with this token: stop, and say so.",
    "with a token": "No call will work without a token: stop, and say so.",
    "with a well-formed request": "Correct the call before you make it again.",
}
# What a discharge is for, and the token's id of it, are of no use to a model.
_APPROVAL: Final = "an operator has to approve this call with exactly these arguments, and no approval came with it"
APPROVAL: Final = "approval"  # the rule of a failure that names the marks after which a call needs one
# A model that reads "not allowed" tries another way: the end of its work must not read like one refused call.
_ENDED: Final = {
    "revoked": "An operator ended this work, or its session did. Stop now, call no other tool, and say so.",
    "frozen": "An operator froze this work. Stop now, call no other tool, and say so.",
}


def refusal_for_model(tool: str, code: str, failures: Sequence[Failure] = (), decision: str = "") -> str:
    """Return the text on a refused call for a language model.

    Args:
        tool: The tool, by the name that the model called it with; empty if there is none.
        code: A key of ``REASONS``, or another code, such as of a mint's refusal.
        failures: What was expected and what came.
        decision: The id of the recorded decision, if there is one.

    Returns:
        One paragraph, such as ``refund was refused: amount must be at most 20, got 50. Do not repeat this call. …``.
        It has no secret, and nothing that the tool returned.
    """
    if code in _ENDED:
        said = _ENDED[code]
    else:
        reason = REASONS.get(code)
        advice = _ADVICE["no" if reason is None else reason.retry]
        said = f"{tool or 'The call'} was refused: {_why(code, failures)}. {advice}"
    return f"{said} (decision {decision})" if decision else said


def error_for_model(tool: str, error: ArxError) -> str:
    """Return the text on an error for a language model; see ``refusal_for_model``.

    Args:
        tool: The tool, by the name that the model called it with.
        error: The error of a refused or impossible call.
    """
    if error.failures or error.code in REASONS:
        return refusal_for_model(tool, error.code, error.failures)
    return f"{tool or 'The call'} was refused: {_short(str(error))}. {_ADVICE['no']}"


def problem_for_model(tool: str, problem: Any) -> str | None:
    """Return the text on a service's ``application/problem+json`` for a language model.

    Args:
        tool: The tool, by the name that the model called it with.
        problem: The decoded body.  The texts of its failures are in the answer, as the service wrote them.

    Returns:
        The text, or None if it is no refusal of ARx.
    """
    code = problem.get("code") if isinstance(problem, dict) else None
    # The answer may be of any server: a code that ARx does not have leaves its text to the framework.
    if code not in REASONS:
        return None
    listed = problem.get("failures")
    several = listed[:MAX_FAILURES] if isinstance(listed, list) else []
    failures = [failure for each in several if (failure := _read(each))]
    decision = problem.get("decision")
    # Only an id: other text here would read as a sentence of ARx.
    shown = decision if isinstance(decision, str) and _DECISION.fullmatch(decision) else ""
    return refusal_for_model(tool, code, failures, shown)


def waiting_for_model(tool: str) -> str:
    """Return the text on a call for which the framework has suspended the run, until an operator has answered.

    Args:
        tool: The tool, by the name that the model called it with.
    """
    return (
        f"{tool} waits: an operator has to approve this call with exactly these arguments, and was asked."
        " The run goes on with the answer. Do not repeat this call meanwhile."
    )


def _why(code: str, failures: Sequence[Failure]) -> str:
    if code == "missing_discharge":
        after = [each.expected for each in failures if each.rule == APPROVAL]
        return f"{_APPROVAL}: expected {after[0]}" if after else _APPROVAL
    if not failures:
        reason = REASONS.get(code)
        return _short(code.replace("_", " ") if reason is None else reason.meaning)
    # The place of a condition is of no use to a model, which cannot see the token.
    return _short("; ".join(str(each._replace(place="token")) for each in failures[:MAX_FAILURES]))


def _read(told: Any) -> Failure | None:
    texts = [told.get(name) for name in Failure._fields] if isinstance(told, dict) else [None]
    return Failure(*texts) if all(isinstance(text, str) and text.isprintable() for text in texts) else None


def _short(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= MAX_SENTENCE else text[: MAX_SENTENCE - 1] + "…"
