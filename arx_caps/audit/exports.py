# SPDX-License-Identifier: Apache-2.0
"""Forms in which records leave the log, a line each: JSON, CSV, OCSF.  SPEC 19.

Each line says its record's index, so that an export which broke off goes on behind its last whole line.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from arx_caps.audit.ocsf import to_ocsf

COLUMNS: Final = (
    "index", "at", "type", "outcome", "code", "service", "tool", "agent", "named", "links", "session", "task",
    "subject", "policy", "verifier", "id", "peer", "detail", "leaf",
    "request_id", "traceparent",
)  # fmt: skip
_STARTERS: Final = ("=", "+", "-", "@", "\t", "\r")


class Form:
    """One form.

    Attributes:
        name: Its name.
        head: Its first line, or nothing.
        line: Writes a record.
        index: Reads the index out of a line.
    """

    def __init__(
        self, name: str, line: Callable[[Mapping[str, Any]], str], index: Callable[[str], int], head: str = ""
    ) -> None:
        self.name, self.line, self.index, self.head = name, line, index, head


def form_of(name: str, *, origin: str, version: str) -> Form:
    """Return a form: ``jsonl``, ``csv`` or ``ocsf``."""
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
        values["service"] = shown["audience"] or shown["service"]
        told = [f"{each['rule']}: expected {each['expected']}, came {each['came']}" for each in shown["failures"]]
        told += [f"{each['times']} {each['code']} from {each['peer'] or '?'}" for each in shown["counts"]]
        values["detail"] = "; ".join(told + ([json.dumps(shown["gap"])] if shown["gap"] else []))
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([_cell(values[name]) for name in COLUMNS])
    return line.getvalue()


def _cell(value: Any) -> Any:
    """Keep a spreadsheet from taking for a formula what a caller wrote (OWASP: CSV injection)."""
    if value is None or isinstance(value, int):
        return value
    text = str(value).replace("\r", "\\r").replace("\n", "\\n")  # a line is a record
    return "'" + text if text.startswith(_STARTERS) else text
