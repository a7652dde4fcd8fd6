# SPDX-License-Identifier: Apache-2.0
"""A captured call of an operator could kill other targets, if it was refused while the database committed nothing.

A proof is for a method and a URL, and not for a body.  The proof of a kill is used up in the store, in the step that
kills; that of a refused kill was to be used up in the database alone, which could not take it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.embedded import EmbeddedValkey
from tests.mint.harness import Harness, Holder, open_live
from tests.postgres import Postgres, running
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.spec("CONTROL 1.2")]

PATH = "/v1/kills"
BODY: dict[str, Any] = {"targets": ["session:s-abcdefghijklmnop"], "reason": "runs wild", "wait": False}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL of its own: its settings are for all databases in it."""
    with running() as found:
        yield found


@pytest.fixture
def realm(tmp_path: Path, server: Postgres, valkey: EmbeddedValkey, realm_name: str) -> Iterator[Harness]:
    """A mint that runs on that server, and on a real store."""
    url = server.database()
    with open_live(tmp_path / "realm", valkey.url, name=realm_name, database=url) as harness:
        until(lambda: harness.client.get("/readyz").status_code == 200)
        yield harness
    server.drop(url)


def codes(holder: Holder, *bodies: dict[str, Any]) -> list[str]:
    """Send kills with one proof, and return the code of each answer."""
    headers = holder.headers("POST", PATH)
    answers = [holder.harness.client.post(PATH, json=body, headers=headers) for body in bodies]
    return [answer.json().get("code", "ok") for answer in answers]


@pytest.mark.slow
def test_the_proof_of_a_refused_kill(realm: Harness, server: Postgres) -> None:
    """Refused for its targets: with the same proof nothing is killed, and with that of another kill nothing either."""
    operator = realm.operator()
    with server.hanging_commits():
        assert codes(operator, BODY | {"targets": ["nonsense"]}, BODY) == ["malformed_request", "replayed"]
        assert codes(operator, BODY, BODY) == ["ok", "replayed"]
    kills = [entry for entry in realm.mint.store.log() if entry.target == BODY["targets"][0]]
    assert len(kills) == 1
