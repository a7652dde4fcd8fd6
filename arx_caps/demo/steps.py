# SPDX-License-Identifier: Apache-2.0
"""Report what came of each step, as one JSON object a line on standard output; ``job.py`` reads and checks them."""

import json
import sys
from typing import Any

import httpx


def report(step: str, came: str, **more: Any) -> None:
    """Write one line.  It is one write, because two processes share the pipe."""
    sys.stdout.write(json.dumps({"step": step, "came": came, **more}) + "\n")
    sys.stdout.flush()


def outcome(response: httpx.Response) -> str:
    """Return status and reason code, such as ``200 ok`` or ``403 tool_not_allowed``."""
    return f"{response.status_code} {response.json()['code'] if response.is_error else 'ok'}"


def report_call(step: str, *responses: httpx.Response) -> None:
    """Report the outcomes of one or more calls; the last refusal explains itself."""
    problem: dict[str, Any] = responses[-1].json() if responses[-1].is_error else {}
    why = [problem["detail"]] if "detail" in problem else []
    report(step, ", then ".join(map(outcome, responses)), why=why, decision=problem.get("decision"))
