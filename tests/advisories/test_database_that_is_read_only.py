# SPDX-License-Identifier: Apache-2.0
"""A read-only database, such as a demoted primary, was called one that does not answer.

Callers, the log and ``/readyz`` read "InternalError", the class of a Python exception.
"""

from pathlib import Path

import pytest

from tests.mint.harness import LOOKUP, open_unit
from tests.postgres import Postgres
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.long]


@pytest.mark.slow
def test_it_is_named(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the answer to an agent and an operator, and in ``/readyz``; and all is well once it takes changes."""
    monkeypatch.setattr("arx_caps.mint.db.health.LOOK_S", 0.0)
    url = postgres.database(template="made")
    with open_unit(tmp_path / "realm", database=url) as unit:
        agent, _ = unit.session()
        operator = unit.operator()
        with postgres.read_only(url):
            answers = [
                agent.call("POST", "/v1/tasks", LOOKUP),
                operator.call("GET", "/v1/agents"),
                unit.client.get("/readyz"),
            ]
        for answer in answers:
            assert answer.status_code == 503
            assert "the mint's database is read-only" in answer.text, answer.text
            assert "Error" not in answer.text
        until(lambda: unit.client.get("/readyz").status_code == 200)
        assert agent.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    postgres.drop(url)
