# SPDX-License-Identifier: Apache-2.0
"""Export formats for records, a line each: JSON, CSV, OCSF.  LOG 3."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from arx_caps.audit.query.ocsf import to_ocsf
from arx_verifier.errors import Failure

COLUMNS: Final = (
    "index", "at", "type", "outcome", "code", "service", "tool", "agent", "named", "links", "session", "task",
    "subject", "policy", "verifier", "id", "peer", "detail", "leaf",
    "request_id", "traceparent", "assurance", "keys",
)  # fmt: skip
_STARTERS: Final = ("=", "+", "-", "@", "\t", "\r")


# Each line contains its record's index, so that an export that broke off continues after its last whole line.
class Form:
    """One export format.

    Attributes:
        name: Its name.
        head: Its first line, or empty.
        line: Returns the line of a record.
        index: Returns the record's index in a line.
    """

    def __init__(
        self, name: str, line: Callable[[Mapping[str, Any]], str], index: Callable[[str], int], head: str = ""
    ) -> None:
        self.name, self.line, self.index, self.head = name, line, index, head


def form_of(name: str, *, origin: str, version: str) -> Form:
    """Return an export format.

    Args:
        name: ``jsonl``, ``csv`` or ``ocsf``; every other name is ``jsonl``.
        origin: The log's name.
        version: ARx's version.
    """
    if name == "csv":
        return Form(name, _csv_line, lambda line: int(line.partition(",")[0]), ",".join(COLUMNS) + "\n")
    if name == "ocsf":
        return Form(
            name,
            lambda shown: _json(to_ocsf(shown, origin=origin, version=version)),
            lambda line: int(json.loads(line)["metadata"]["sequence"]),
        )
    return Form(
        name, lambda shown: _json({"schema": "arx/record/1", **shown}), lambda line: int(json.loads(line)["index"])
    )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n"


def _csv_line(shown: Mapping[str, Any]) -> str:
    values = {name: shown.get(name) for name in COLUMNS}
    if shown["type"] == "event":
        named = shown["named"]
        values |= {
            "outcome": "event",
            "code": "event",
            "tool": shown["kind"],
            "agent": named.get("agent") or shown["by"],
        }
        values |= {name: named.get(name) for name in ("session", "task", "policy")}
        values |= {"named": None, "detail": json.dumps(named, ensure_ascii=True)}
    elif shown["type"] == "decision":
        subject = shown["subject"]
        values["subject"] = subject and f"{subject['issuer']} {subject['subject']}"
        values["named"], values["links"] = " > ".join(shown["named"]), " > ".join(shown["links"])
        values["keys"] = " > ".join(holder["key"] for holder in shown["holders"])
        values["service"] = shown["audience"] or shown["service"]
        failures, counts = shown["failures"], shown["counts"]
        details = [str(Failure(**failure)) for failure in failures]
        details += [f"{count['times']} {count['code']} from {count['peer'] or '?'}" for count in counts]
        values["detail"] = "; ".join(details + ([json.dumps(shown["gap"])] if shown["gap"] else []))
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([_cell(values[name]) for name in COLUMNS])
    return line.getvalue()


def _cell(value: Any) -> Any:
    """Return a value that a spreadsheet does not evaluate as a formula (OWASP: CSV injection)."""
    if value is None or isinstance(value, int):
        return value
    text = str(value).replace("\r", "\\r").replace("\n", "\\n")  # a line is a record
    return "'" + text if text.startswith(_STARTERS) else text
