# SPDX-License-Identifier: Apache-2.0
"""``arx policy draft`` and ``arx policy gap``: of files, of documents, and of the log of a realm that runs."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from arx_caps.cli import exit_codes
from arx_caps.service import open_shipper
from arx_verifier.service import open_verifier
from tests.cli.helpers import arx
from tests.cli.live import AGENT, call, live_realm
from tests.cli.test_service_keys import joined
from tests.servers import free_ports


def calls_file(folder: Path, *more: dict[str, Any]) -> Path:
    """Write what four sessions did, and more."""
    lines: list[dict[str, Any]] = []
    for n in range(4):
        shared = {"agent": AGENT, "session": f"s{n}", "purpose": f"refund {n}", "at": 1_760_000_000_000 + n * 3_600_000}
        lines.append(shared | {"tool": "orders.get", "args": {"order_id": f"o-{n}"}})
        lines.append(shared | {"tool": "payments.refund", "args": {"order_id": f"o-{n}", "amount": 5 * n}})
    file = folder / "calls.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *more]))
    return file


def test_a_draft_is_checked_asked_and_compared(tmp_path: Path) -> None:
    """Its file passes the check, its questions pass the test, and the gap is what it left out."""
    odd = {"agent": AGENT, "session": "s1", "purpose": "refund 1", "tool": "orders.drop", "args": {"order_id": "o-1"}}
    calls = calls_file(tmp_path, odd)
    draft, questions = tmp_path / "draft.toml", tmp_path / "questions.toml"
    ran = arx("policy", "draft", "--calls", calls, "--out", draft, "--questions", questions)
    assert (ran.exit_code, ran.out) == (0, "")
    assert (
        "it refuses 0 of the 8 calls of its rules\nhint: 1 calls of fewer sessions have their rules as comments"
        in ran.err
    )
    assert [stat.S_IMODE(file.stat().st_mode) for file in (draft, questions)] == [0o600, 0o600]
    assert 'origins = ["https://orders.invalid"] # write where it lives\n' in draft.read_text()
    assert arx("policy", "check", draft).exit_code == 0
    ran = arx("policy", "test", draft, questions, "--json")
    assert (ran.exit_code, ran.json["failed"], len(ran.json["results"])) == (0, 0, 9)
    assert [each["code"] for each in ran.json["results"]].count("tool_not_allowed") == 1
    ran = arx("policy", "gap", draft, "--calls", calls, "--json")
    assert (ran.exit_code, ran.json["calls"], ran.json["unused"]) == (exit_codes.DENIED, 9, [])
    [refused] = ran.json["refused"]
    assert (refused["tool"], refused["calls"], refused["sessions"]) == ("orders.drop", 1, 1)
    ran = arx("policy", "draft", "--calls", calls, "--min-seen", "1", "--json")
    assert (ran.json["refused"], ran.json["kept"], ran.json["calls"]) == (0, 9, 9)
    draft.write_text(ran.json["policy"])
    assert arx("policy", "gap", draft, "--calls", calls).exit_code == 0


def test_the_gap_names_rules_that_no_call_used(tmp_path: Path) -> None:
    """With the line of each in the file."""
    draft, calls = tmp_path / "draft.toml", calls_file(tmp_path)
    assert arx("policy", "draft", "--calls", calls, "--out", draft, "-q").exit_code == 0
    calls.write_text(calls.read_text().splitlines()[0])
    ran = arx("policy", "gap", draft, "--calls", calls, "--json")
    [unused] = ran.json["unused"]
    assert (ran.exit_code, unused["tool"], unused["task"]) == (0, "payments.refund", "triage-refund")
    assert "payments.refund" in draft.read_text().splitlines()[unused["line"] - 1]
    assert "UNUSED" in arx("policy", "gap", draft, "--calls", calls).out


OPENAPI = {
    "openapi": "3.1.0",
    "paths": {
        "/orders/{order_id}": {
            "parameters": [{"$ref": "#/components/parameters/order"}],
            "get": {
                "operationId": "get",
                "parameters": [
                    {
                        "in": "query",
                        "name": "lines",
                        "schema": {"type": "integer", "minimum": 1, "exclusiveMaximum": 51},
                    },
                    {"in": "header", "name": "x-id", "schema": {"type": "string"}},
                ],
            },
            "delete": {"operationId": "drop"},
        },
        "/orders": {
            "post": {
                "operationId": "place",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}},
            }
        },
    },
    "components": {
        "parameters": {
            "order": {"in": "path", "name": "order_id", "required": True, "schema": {"type": "string", "maxLength": 16}}
        },
        "schemas": {
            "Order": {
                "type": "object",
                "required": ["sku", "price"],
                "properties": {
                    "sku": {"type": "string", "pattern": "^[a-z]+$"},
                    "price": {"type": "number", "minimum": 0.5},
                    "speed": {"enum": ["slow", "fast"]},
                    "note": {"anyOf": [{"type": "string", "maxLength": 80}, {"type": "null"}]},
                    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
                    "to": {"type": "object", "properties": {"street": {"const": "$1"}}},
                    "gift": {"type": "boolean"},
                    "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Order"}},
                },
            }
        },
    },
}
TOOLS = {
    "result": {
        "tools": [
            {
                "name": "read",
                "inputSchema": {"type": "object", "properties": {}},
                "annotations": {"readOnlyHint": True},
            },
            {"name": "mail", "inputSchema": {"type": "object"}, "annotations": {"openWorldHint": True}},
        ]
    }
}


def documents(folder: Path) -> list[str]:
    for name, document in (("openapi", OPENAPI), ("tools", TOOLS)):
        (folder / f"{name}.json").write_text(json.dumps(document))
    return ["--document", f"orders={folder / 'openapi.json'}", "--document", f"desk={folder / 'tools.json'}"]


def test_documents_propose_a_task_that_reads_and_one_that_writes(tmp_path: Path) -> None:
    """With the bounds of their schemas, closed to other members; what a constraint cannot say is any."""
    ran = arx("policy", "draft", *documents(tmp_path), "--agent", "acme/**", "--json")
    assert ran.exit_code == 0, ran.err
    draft = tmp_path / "draft.toml"
    draft.write_text(ran.json["policy"])
    assert arx("policy", "check", draft).exit_code == 0
    rules = {each["name"]: {rule["tool"]: rule for rule in each["rules"]} for each in ran.json["templates"]}
    assert {name: list(tools) for name, tools in rules.items()} == {
        "orders-read": ["orders.get"],
        "orders-write": ["orders.drop", "orders.place"],
        "desk-read": ["desk.read"],
        "desk-write": ["desk.mail"],
    }
    lines = {"min": 1, "max": 51, "optional": True}
    assert rules["orders-read"]["orders.get"]["args"] == {"order_id": {"max_length": 16}, "lines": lines}
    place = rules["orders-write"]["orders.place"]["args"]
    assert (place["sku"], place["price"]) == ({"any": True}, {"min": "0.5"})
    assert place["speed"] == {"one_of": ["slow", "fast"], "optional": True}
    assert place["note"] == {"max_length": 80, "optional": True}
    assert place["tags"] == {"max_length": 3, "each": {"any": True}, "optional": True}
    assert place["to"] == {"fields": {"street": {"one_of": ["$$1"], "optional": True}}, "optional": True}
    assert place["gift"] == {"one_of": [True, False], "optional": True}
    assert "any" in place["parts"], "a schema in itself"
    assert rules["desk-read"]["desk.read"] == rules["desk-read"]["desk.read"] | {"args": {}}
    assert rules["desk-write"]["desk.mail"]["args"] is None
    text = ran.json["policy"]
    assert "# GET /orders/{order_id}\n" in text
    assert "# returns what others wrote (openWorldHint); sends to others (openWorldHint)\n" in text


def test_the_operations_of_a_path_that_is_a_reference_are_read(tmp_path: Path) -> None:
    """As the gateway reads them: with their own parameters in the place of the path's."""
    shared = {"in": "query", "name": "page", "schema": {"type": "string", "maxLength": 9}}
    own = {"in": "query", "name": "page", "required": True, "schema": {"type": "integer", "minimum": 1}}
    item = {"parameters": [shared], "get": {"operationId": "list", "parameters": [own]}, "put": {"operationId": "set"}}
    document = {
        "openapi": "3.1.0",
        "paths": {"/orders": {"$ref": "#/components/pathItems/orders"}, "x-note": "get"},
        "components": {"pathItems": {"orders": item}},
    }
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(document))
    ran = arx("policy", "draft", "--document", f"orders={file}", "--agent", "acme/**", "--json")
    assert ran.exit_code == 0, ran.err
    assert {rule["tool"]: rule["args"] for each in ran.json["templates"] for rule in each["rules"]} == {
        "orders.list": {"page": {"min": 1}},
        "orders.set": {"page": {"max_length": 9, "optional": True}},
    }
    file.write_text(json.dumps(document | {"openapi": None, "swagger": "2.0"}))
    ran = arx("policy", "draft", "--document", f"orders={file}", "--agent", "acme/**")
    assert (ran.exit_code, "expected an OpenAPI document of version 3" in ran.err) == (exit_codes.USAGE, True)


def test_documents_beside_calls_add_what_they_say(tmp_path: Path) -> None:
    """In the comment of each rule; tools that no call was of are named at the end."""
    ran = arx("policy", "draft", *documents(tmp_path), "--calls", calls_file(tmp_path))
    assert "2025-10-09 11:53:20Z; GET /orders/{order_id}\n" in ran.out
    assert ran.out.endswith("# No call was of: desk.mail, desk.read, orders.drop, orders.place\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected --from or --calls, or a document and --agent PATTERN"),
        (("--calls", "{calls}", "--agent", "Acme"), "expected a pattern such as acme/support/*"),
        (("--calls", "{calls}", "--document", "orders"), "expected NAME=FILE with the name of a service, got 'orders'"),
        (
            ("--calls", "{calls}", "--document", "desk={calls}", "--document", "desk={calls}"),
            "invalid value for --document: 'desk' is given twice",
        ),
        (
            ("--document", "desk={calls}", "--agent", "**"),
            "calls.jsonl: expected an OpenAPI document of version 3, or ",
        ),
        (
            ("--document", "desk={calls}.no", "--agent", "**"),
            "calls.jsonl.no: expected an OpenAPI document of version 3, or ",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    """With what was expected."""
    calls = calls_file(tmp_path)
    ran = arx("policy", "draft", *(word.replace("{calls}", str(calls)) for word in words))
    assert (ran.exit_code in (exit_codes.USAGE, exit_codes.DENIED), ran.out) == (True, "")
    assert message in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.slow
@pytest.mark.servers
def test_the_log_of_a_realm_is_drawn_from(tmp_path: Path) -> None:
    """With the purposes of sessions, recorded arguments, and the origins of the policy in force."""
    with live_realm(tmp_path / "realm", free_ports(1)[0]) as live:
        live.ok("agent", "enrol", AGENT, "--key-out", tmp_path / "agent.key")
        file, _ = joined(live, tmp_path)
        settings = json.loads(file.read_text()) | {"record_arguments": ["orders.*"]}
        file.write_text(json.dumps(settings))
        verifier = open_verifier(file)
        verifier.start()
        with open_shipper(file):
            for n in range(3):
                held = [tmp_path / f"{name}-{n}" for name in ("session", "task")]
                purpose = ("--purpose", f"where is order {n}?")
                live.ok("session", "open", "--key", tmp_path / "agent.key", *purpose, "--out", held[0])
                live.ok("task", "start", "lookup", "--param", f"order_id=o-{n}", "--session", held[0], "--out", held[1])
                live.until(lambda held=held, n=n: call(verifier, held[1], "orders.get", order_id=f"o-{n}").allowed)  # type: ignore[misc]
                assert not call(verifier, held[1], "orders.get", order_id="o-9").allowed
            live.until(lambda: live.run("policy", "draft", "--from", "1h")[1].get("kept", 0) >= 3)
            answer = live.ok("policy", "draft", "--from", "1h", "--out", tmp_path / "draft.toml")
        verifier.close()
        [template] = answer["templates"]
        assert (template["name"], template["purpose"]) == ("triage-where-is-order", "where is order #?")
        assert (template["params"], template["rules"][0]["args"]) == (
            {"order_id": {"glob": "o-*"}},
            {"order_id": "$order_id"},
        )
        in_force = live.ok("policy", "show")["policy"]
        [place] = [line for line in answer["policy"].splitlines() if line.startswith("origins = ")]
        assert place in in_force
        code, answer, _ = live.run("policy", "gap", tmp_path / "draft.toml", "--from", "1h")
        assert (code, answer["refused"], answer["unused"]) == (0, [], [])
        assert live.ok("policy", "gap", "in-force", "--from", "1h")["unused"][0]["task"] == "refund"
