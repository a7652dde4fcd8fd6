# SPDX-License-Identifier: Apache-2.0
"""Exports: every record is a line that says its index, in a form that others read."""

import csv
import io
import json
from typing import Any, Final

import pytest

from arx_caps.audit.entries import EventRecord, make_event, place_of_event
from arx_caps.audit.exports import COLUMNS, form_of
from arx_caps.audit.ocsf import to_ocsf
from arx_caps.audit.questions import Found
from arx_caps.audit.shown import show_record
from arx_verifier.decisions import COUNTED, GAP, UNPROVEN, Decision, Gap
from arx_verifier.records import seal
from arx_verifier.tally import Counted
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
    found(1, decision(2, facts(), "argument_not_allowed", '=HYPERLINK("x")\nnext')),
    found(2, decision(3, facts(), "revoked", "orders.get", ends=2)),
    found(3, decision(4, facts("s-1", "t-1", "acme/a", subject=ADA)), erased=True),
    found(4, Decision(COUNTED, START_MS, UNPROVEN, counts=(Counted("bad_signature", "10.0.0.9", 3),))),
    found(5, Decision(GAP, START_MS, UNPROVEN, gap=Gap("lost", 3, 9, 7, START_MS, START_MS))),
    found(6, decision(5, facts("", None, agent="operator:root", assurance="key"), tool="arx.kill")),
    event("session.opened", template="support"),
    event("policy.loaded", digest="x"),
    Found(91, 1, 1, "", b"\x97\x09of a later version", None, "orders"),
]
SHOWN: Final = [show_record(each) for each in RECORDS]

# What https://schema.ocsf.io/1.8.0/ requires of the two classes and of the objects in them; sets: at least one of them.
BASE: Final = (
    "activity_id", "category_uid", "class_uid", "metadata.product.vendor_name", "metadata.version", "severity_id",
    "time", "type_uid",
)  # fmt: skip
ENDPOINT: Final = {"ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "interface_name"}
REQUIRED: Final[dict[int, tuple[Any, ...]]] = {
    6003: (*BASE, "actor", "api.operation", "src_endpoint"),
    3003: (*BASE, "user", {"privileges", "groups", "iam_roles"}),
}
OF_OBJECTS: Final[dict[str, tuple[Any, ...]]] = {
    "actor": ({"process", "user", "invoked_by", "session", "app_name", "app_uid"},),
    "actor.user": ({"account", "name", "uid"},),
    "user": ({"account", "name", "uid"},),
    "src_endpoint": (ENDPOINT,),
    "dst_endpoint": (ENDPOINT,),
    "ai_agent": ("uid",),
    "api.service": ({"name", "uid"},),
    "api.request": ("uid",),
}


def at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


@pytest.mark.parametrize("shown", SHOWN, ids=range(len(SHOWN)))
def test_an_ocsf_event_has_what_its_class_requires(shown: dict[str, Any]) -> None:
    """
    Every record, of whatever kind, erased or not: the class's and the objects' required attributes, of their types.
    """
    written = to_ocsf(shown, origin="mint.example/acme/log", version="0.1.0")
    assert json.dumps(written)
    wanted = [("", each) for each in REQUIRED[written["class_uid"]]]
    wanted += [(path, each) for path, rules in OF_OBJECTS.items() if at(written, path) is not None for each in rules]
    for path, rule in wanted:
        inside = at(written, path) if path else written
        if isinstance(rule, set):
            assert any(inside.get(name) for name in rule), (path, rule)
        else:
            assert at(inside, rule) not in (None, ""), (path, rule)
    assert written["type_uid"] == written["class_uid"] * 100 + written["activity_id"]
    assert written["category_uid"] == written["class_uid"] // 1000
    assert written["activity_id"] in ((1, 2, 3, 4, 99) if written["class_uid"] == 6003 else (1, 2, 3))
    assert type(written["time"]) is int
    assert written["metadata"]["version"] == "1.8.0"


def test_ocsf_says_who_did_what_for_whom_and_how_it_ended() -> None:
    """
    The person is the user, the agent the AI agent, the tool the operation; the chain of hand-overs is not lost.
    """
    allow, deny, *_, opened, _, _ = (to_ocsf(shown, origin="o", version="1") for shown in SHOWN)
    assert allow["actor"]["user"] == {"uid": "ada", "domain": "https://idp.example", "type_id": 1, "type": "User"}
    assert (allow["ai_agent"]["uid"], allow["ai_agent"]["instance_uid"]) == ("acme/bot", "s-1")
    assert allow["api"] == {"operation": "lookup", "service": {"name": "orders"}, "request": {"uid": "rq-1"}}
    assert (allow["src_endpoint"], allow["metadata"]["correlation_uid"]) == ({"ip": "10.0.0.1"}, "00-ab-cd-01")
    assert allow["unmapped"]["arx"]["named"] == ("acme/a",)
    assert (allow["status_id"], deny["status_id"], deny["status_code"]) == (1, 2, "argument_not_allowed")
    assert deny["actor"]["authorizations"] == [{"decision": "denied", "policy": {"uid": "p"}}]
    assert (opened["class_uid"], opened["user"]["uid"], opened["privileges"]) == (3003, "acme/bot", ["support"])


@pytest.mark.parametrize("name", ["jsonl", "csv", "ocsf"])
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
    What a caller named begins no formula in whoever's spreadsheet; columns are as the head says.
    """
    form = form_of("csv", origin="o", version="1")
    rows = list(csv.DictReader(io.StringIO(form.head + "".join(map(form.line, SHOWN)))))
    assert list(rows[0]) == list(COLUMNS)
    assert (rows[0]["named"], rows[0]["subject"]) == ("acme/a", "https://idp.example ada")
    assert rows[1]["tool"] == '\'=HYPERLINK("x")\\nnext'
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values() if cell)
    assert (rows[7]["type"], rows[7]["tool"], rows[7]["agent"]) == ("event", "session.opened", "acme/bot")
