# SPDX-License-Identifier: Apache-2.0
"""Exports: every record is a line that says its index, in a form that others read."""

import csv
import io
import json
import re
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import pytest

from arx_caps.audit.ingest.entries import EventRecord, make_event, place_of_event
from arx_caps.audit.query.export import COLUMNS, form_of
from arx_caps.audit.query.ocsf import to_ocsf
from arx_caps.audit.query.questions import Found
from arx_caps.audit.query.views import show_record
from arx_verifier.journal.decision import COUNTED, GAP, UNPROVEN, Decision
from arx_verifier.journal.record import AWAITED, CredentialRecord, EffectRecord, Gap, seal
from arx_verifier.journal.tally import RefusalCount
from tests.audit.batches import START_MS, decision, facts

ADA = ("https://idp.example", "ada")


def event(kind: str, **about: Any) -> Found:
    record = EventRecord("mint-1", 7, START_MS, kind, "agent:acme/bot", {"session": "s-1", "agent": "acme/bot"}, about)
    entry = make_event(record, place_of_event(record.by, record.named))
    return Found(90, 1, entry.outcome, entry.tool, entry.kept, entry.body, "")


def found(index: int, decided: Decision, *, erased: bool = False) -> Found:
    sealed = seal(decided.pack(), "orders-1", "b" * 12, index + 1)
    return Found(index, 1, 1, decided.tool, sealed.kept, None if erased else sealed.body, "orders")


RECORDS: Final = [
    found(0, decision(1, facts("s-1", "t-1", "acme/a", subject=ADA), request_id="rq-1", traceparent="00-ab-cd-01")),
    found(1, decision(2, facts(), "argument_not_allowed", '=HYPERLINK("x")\nnext', request_id="=1+1")),
    found(2, decision(3, facts(), "revoked", "orders.get", ends=2)),
    found(3, decision(4, facts("s-1", "t-1", "acme/a", subject=ADA)), erased=True),
    found(4, Decision(COUNTED, START_MS, UNPROVEN, counts=(RefusalCount("bad_signature", "10.0.0.9", 3),))),
    found(5, Decision(GAP, START_MS, UNPROVEN, gap=Gap("lost", 3, 9, 7, START_MS, START_MS))),
    found(6, decision(5, facts("", None, agent="operator:root", assurance="key"), tool="arx.kill")),
    found(7, Decision("ok", START_MS, facts(), "lookup", peer="/run/orders.sock")),
    *(
        found(
            10 + number,
            decision(6, facts(), "effect", effect=EffectRecord(result, "b-1", 200, 6, b"", 3), external_id="re_7"),
        )
        for number, result in enumerate(("done", "failed", "unknown"))
    ),
    found(13, decision(7, facts(), effect=AWAITED)),
    found(
        14,
        decision(
            8,
            facts(),
            "effect",
            effect=EffectRecord("done", "b-1", 200, 6, b"", 3),
            credential=CredentialRecord("person", "c-1", ("read",), "cached"),
            account="ann-t",
        ),
    ),
    event("session.opened", template="support"),
    event("policy.loaded", digest="x"),
    Found(91, 1, 1, "", b"\x97\x09of a later version", None, "orders"),
]
SHOWN: Final = [show_record(each) for each in RECORDS]

# What https://schema.ocsf.io/1.8.0 publishes of the two classes and of the objects in them.
OCSF: Final = json.loads(Path(__file__).with_name("ocsf-1.8.json").read_text("utf-8"))
JSON_TYPES: Final = {"boolean_t": bool, "integer_t": int, "long_t": int, "string_t": str}
COUNTS: Final = {"at_least_one": range(1, 99), "just_one": range(1, 2)}


def check_against_schema(value: Any, schema: dict[str, Any], where: str, profiles: Sequence[str] = ()) -> None:
    """Hold an object to its class or object type: what is required, known, of its type, and what goes together."""
    known = {
        name: entry
        for name, entry in schema["attributes"].items()
        if "profiles" not in entry or set(entry["profiles"]) & set(profiles)
    }
    assert set(value) <= set(known), where
    assert {name for name, entry in known.items() if entry.get("required")} <= set(value), where
    for constraint, names in schema.get("constraints", {}).items():
        assert sum(name in value for name in names) in COUNTS[constraint], (where, constraint, names)
    for name, member in value.items():
        entry, path = known[name], f"{where}.{name}"
        assert isinstance(member, list) == entry.get("array", False), path
        for each in member if entry.get("array") else [member]:
            check_against_type(each, entry, path)


def check_against_type(value: Any, expected: dict[str, Any], where: str) -> None:
    """Hold a value to the type of its attribute."""
    kind = expected["type"]
    if kind in OCSF["objects"]:
        check_against_schema(value, OCSF["objects"][kind], where)
        return
    if kind == "object":  # anything
        assert isinstance(value, dict), where
        return
    of = OCSF["types"][kind]
    assert type(value) is JSON_TYPES[of.get("type", kind)], where
    assert value != "", where
    assert re.search(of.get("regex", ""), str(value)), where
    assert len(str(value)) <= of.get("max_len", len(str(value))), where
    assert str(value) in expected.get("enum", [str(value)]), where
    if kind == "ip_t":
        ip_address(value)


def written(shown: dict[str, Any]) -> Any:
    """A record as a reader of an export gets it."""
    return json.loads(form_of("ocsf", origin="mint.example/acme/log", version="0.1.0").line(shown))


@pytest.mark.parametrize("shown", SHOWN, ids=range(len(SHOWN)))
def test_an_ocsf_event_is_what_its_schema_says(shown: dict[str, Any]) -> None:
    """Every record, of whatever kind, erased or not, is an event of the published schema, and has nothing else."""
    event = written(shown)
    schema = OCSF["classes"][str(event["class_uid"])]
    check_against_schema(event, schema, schema["name"], event["metadata"].get("profiles", ()))
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert (event["metadata"]["version"], event["class_name"]) == (OCSF["version"], schema["name"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("time",), "1"),
        (("severity_id",), 7),
        (("actor",), {}),
        (("api",), {"service": {"name": "orders"}}),
        (("metadata", "product"), None),
        (("src_endpoint", "ip"), "10.0.0"),
        (("resources",), {"name": "orders"}),
        (("ai_agent",), {"uid": "acme/bot"}),
    ],
)
def test_an_event_that_is_none_is_found(path: tuple[str, ...], value: Any) -> None:
    """The check itself: what the schema does not say, or says otherwise, is no event."""
    event = written(SHOWN[0])
    inside = event
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] = value
    with pytest.raises((AssertionError, ValueError, TypeError)):
        check_against_schema(event, OCSF["classes"]["6003"], "event")


def test_ocsf_says_who_did_what_for_whom_and_how_it_ended() -> None:
    """
    The person is the user, the agent the application, the tool the operation; the chain of delegations is not lost.
    """
    allow, deny, *_, opened, _, _ = (to_ocsf(shown, origin="o", version="1") for shown in SHOWN)
    assert allow["actor"]["user"] == {"uid": "ada", "domain": "https://idp.example", "type_id": 1, "type": "User"}
    assert (allow["actor"]["app_uid"], allow["actor"]["session"]) == ("acme/bot", {"uid": "s-1"})
    assert allow["api"] == {"operation": "lookup", "service": {"name": "orders"}, "request": {"uid": "rq-1"}}
    assert (allow["src_endpoint"], allow["metadata"]["correlation_uid"]) == ({"ip": "10.0.0.1"}, "00-ab-cd-01")
    assert to_ocsf(SHOWN[7], origin="o", version="1")["src_endpoint"] == {"name": "/run/orders.sock"}
    assert allow["unmapped"]["arx"]["named"] == ("acme/a",)
    assert (allow["status_id"], deny["status_id"], deny["status_code"]) == (1, 2, "argument_not_allowed")
    assert deny["actor"]["authorizations"] == [{"decision": "denied", "policy": {"uid": "p"}}]
    assert (opened["class_uid"], opened["user"]["uid"], opened["privileges"]) == (3003, "acme/bot", ["support"])


@pytest.mark.parametrize("name", ["jsonl", "csv", "ocsf"])
@pytest.mark.spec("LOG 3.2")
def test_each_record_is_one_line_that_says_its_index(name: str) -> None:
    """
    Whatever callers wrote, a record is one line, and its index can be read back from it.
    """
    form = form_of(name, origin="o", version="1")
    for shown in SHOWN:
        line = form.line(shown)
        assert line.count("\n") == 1
        assert line.endswith("\n")
        assert form.index(line.rstrip("\n")) == shown["index"]


def test_a_table_of_it_starts_no_formula() -> None:
    """
    No text of a caller begins a formula in the spreadsheet of a reader; columns are those of the head.
    """
    form = form_of("csv", origin="o", version="1")
    rows = list(csv.DictReader(io.StringIO(form.head + "".join(map(form.line, SHOWN)))))
    assert list(rows[0]) == list(COLUMNS)
    assert (rows[0]["named"], rows[0]["subject"]) == ("acme/a", "https://idp.example ada")
    assert [(row["request_id"], row["traceparent"]) for row in rows[:4]] == [
        ("rq-1", "00-ab-cd-01"),
        ("'=1+1", ""),
        ("", ""),
        ("", ""),
    ]
    assert rows[1]["tool"] == '\'=HYPERLINK("x")\\nnext'
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values() if cell)
    assert (rows[13]["type"], rows[13]["tool"], rows[13]["agent"]) == ("event", "session.opened", "acme/bot")
