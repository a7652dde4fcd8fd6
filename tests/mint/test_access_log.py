# SPDX-License-Identifier: Apache-2.0
"""What operators see of a running mint: numbers and lines that name no agent and hold no secret."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from arx_caps.mint.api.access_log import JsonLines, log
from tests.mint.harness import AGENT, LOOKUP, Harness


@pytest.fixture
def unit(unit: Harness) -> Harness:
    """A realm whose log has its tables, and is not started."""
    unit.mint.log.store.create()
    return unit


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    """The lines as they are written, read back."""
    found: list[dict[str, Any]] = []

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(JsonLines().format(record)))

    reader = Reader()
    roots = (log, logging.getLogger("arx_caps.mint.api.problems"))
    for each in roots:
        each.addHandler(reader)
    log.setLevel(logging.INFO)
    yield found
    log.setLevel(logging.NOTSET)
    for each in roots:
        each.removeHandler(reader)


def numbers(harness: Harness) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = harness.client.app.state.metrics.text().decode()  # type: ignore[attr-defined]
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.spec("CONTROL 4.6")
def test_requests_are_counted_by_route_and_status(unit: Harness) -> None:
    """By the route's template, the method and the status; a refusal by its code as well."""
    holder, session = unit.session()
    holder.call("POST", "/v1/tasks", LOOKUP)
    holder.call("GET", f"/v1/sessions/{session['id']}")
    unit.client.get("/v1/whoami")
    for _ in range(2):
        unit.client.get("/nowhere/at/all")
    found = numbers(unit)

    def count(method: str, route: str, status: int) -> float:
        labels = frozenset({"method": method, "route": route, "status": str(status)}.items())
        return found[("arx_mint_requests_total", labels)]

    assert (count("POST", "/v1/tasks", 201), count("GET", "/v1/sessions/{session}", 200)) == (1, 1)
    assert (count("GET", "/v1/whoami", 401), count("GET", "(none)", 404)) == (1, 2)
    assert found[("arx_mint_refusals_total", frozenset({("code", "missing_token")}))] == 1
    assert found[("arx_mint_request_seconds_count", frozenset({("route", "/v1/tasks")}))] == 1


def test_the_state_is_counted_on_request(unit: Harness) -> None:
    """Open sessions and tasks, the epoch and its age, the record's backlog, readiness."""
    holder, _ = unit.session()
    holder.call("POST", "/v1/tasks", LOOKUP)
    epochs: Any = unit.mint.epochs
    epochs.kill("agent:elsewhere")
    found = {name: value for (name, labels), value in numbers(unit).items() if not labels}
    assert (found["arx_mint_sessions_open"], found["arx_mint_tasks_open"], found["arx_epoch"]) == (1, 1, 1)
    assert found["arx_mint_outbox_events"] == len(unit.mint.db.outbox.after(0))
    assert found["arx_mint_ready"] == 1
    epochs.close()
    assert {name: value for (name, labels), value in numbers(unit).items() if not labels}["arx_mint_ready"] == 0


@pytest.mark.spec("CONTROL 4.6")
def test_no_label_names_a_person(unit: Harness) -> None:
    """The metrics name no agent, no session and no text that a stranger made up."""
    holder, session = unit.session()
    holder.call("GET", f"/v1/sessions/{session['id']}")
    unit.operator().call("GET", f"/v1/agents/{AGENT}")
    unit.client.request("MADEUP", "/made-up-by-a-stranger")
    text = unit.client.app.state.metrics.text().decode()  # type: ignore[attr-defined]
    for secret in (AGENT, session["id"], "made-up", "MADEUP"):
        assert secret not in text


@pytest.mark.spec("CONTROL 4.6")
def test_a_request_is_one_line(unit: Harness, lines: list[dict[str, Any]]) -> None:
    """Time, level, event, id, caller's kind, route, status and duration; the id is the answer's."""
    holder, _ = unit.session()
    lines.clear()
    answer = holder.call("POST", "/v1/tasks", LOOKUP)
    (line,) = lines
    assert set(line) == {"time", "level", "event", "request", "caller", "method", "route", "status", "ms"}
    assert (line["event"], line["level"], line["caller"], line["route"]) == ("request", "info", "agent", "/v1/tasks")
    assert (line["request"], line["status"]) == (answer.headers["x-request-id"], 201)
    refused = unit.client.get("/v1/whoami")
    assert (lines[-1]["code"], lines[-1]["request"]) == ("missing_token", refused.headers["x-request-id"])


@pytest.mark.spec("CONTROL 4.6")
def test_no_line_holds_what_was_sent(unit: Harness, lines: list[dict[str, Any]]) -> None:
    """No token, proof, path, query value, body or name of an agent is in any line, whatever is asked."""
    holder, session = unit.session()
    bundle = holder.call("POST", "/v1/tasks", LOOKUP).json()["bundle"]
    operator = unit.operator()
    operator.call("GET", f"/v1/agents/{AGENT}")
    operator.call("GET", "/v1/sessions", agent=AGENT, after="s3cret")
    unit.client.get("/v1/sessions/s3cret?token=s3cret", headers={"Authorization": "DPoP s3cret"})
    written = json.dumps(lines)
    for secret in (AGENT, session["id"], bundle, str(holder.token), str(operator.token), "s3cret", "o-1"):
        assert secret not in written


def test_a_bug_is_logged_by_its_place(
    unit: Harness, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says where it failed and for which request, and not with which values."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("s3cret detail")

    holder, _ = unit.session()
    monkeypatch.setattr(unit.mint.db.tasks, "list", broken)
    answer = holder.call("GET", "/v1/tasks")
    (line,) = [line for line in lines if line["event"] == "failed"]
    assert (line["error"], line["request"]) == ("RuntimeError", answer.headers["x-request-id"])
    assert line["at"][-1].endswith("broken")
    assert "s3cret" not in json.dumps(lines)


def test_readiness_asks_the_database_once_a_second(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often strangers ask, the lock that writers need is taken once."""
    looked: list[int] = []
    monkeypatch.setattr(unit.mint.db.outbox, "check", lambda: looked.append(1))
    assert {unit.client.get("/readyz").status_code for _ in range(50)} == {200}
    assert len(looked) <= 2
