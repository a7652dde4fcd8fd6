# SPDX-License-Identifier: Apache-2.0
"""An operator who thawed a freeze got the report ``dead``, the opposite of what had happened.

ARx: one set of words for a kill, a freeze and a thaw, and each line begins with its word.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arx_caps.mint.api.app import describe_api
from arx_verifier import Verifier
from tests.cli.live import AGENT, Live, live_realm, live_verifier

pytestmark = pytest.mark.servers


@pytest.fixture
def up(tmp_path: Path, free_port: int) -> Iterator[Live]:
    """A realm that runs."""
    with live_realm(tmp_path / "realm", free_port) as realm:
        realm.ok("agent", "enrol", AGENT, "--key-out", tmp_path / "agent.key", "--owner", "ada")
        realm.ok("service", "enrol", "orders", "--out", tmp_path / "orders.json")
        yield realm


@pytest.fixture
def orders(up: Live, tmp_path: Path) -> Iterator[Verifier]:
    """A service's verifier, live in the store's registry."""
    with live_verifier(up, tmp_path / "orders.json") as verifier:
        yield verifier


@pytest.mark.slow
@pytest.mark.usefixtures("orders")
def test_each_command_reports_in_the_same_words(up: Live) -> None:
    """At the mint and straight at the store: the word, the exit code and the line say the same."""
    words = (f"agent:{AGENT}", "--reason", "a test", "--yes")
    for verb in ("freeze", "thaw", "kill", "thaw"):
        for by, direct in (("mint", ()), ("store", ("--direct",))):
            report = up.confirmed(verb, *words, *direct)
            assert (report["status"], report["by"]) == ("confirmed", by), (verb, report)
            assert report["summary"].startswith("confirmed: 2 of 2 verifiers in "), verb


def test_the_api_knows_no_other_word() -> None:
    """The OpenAPI document lists the four words of every report."""
    document: dict[str, Any] = msgspec.to_builtins(describe_api("https://mint.example"))
    status = document["components"]["schemas"]["KillShown"]["properties"]["status"]
    assert set(status["enum"]) == {"confirmed", "partial", "unconfirmed", "unknown"}
