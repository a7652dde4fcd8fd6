# SPDX-License-Identifier: Apache-2.0
"""What a person's token is kept by at the gateway, and what a model reads of MCP without one."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from arx_caps.credentials.account_token import LentToken, TokenAnswer
from arx_caps.credentials.keyfile import KeyFile
from arx_caps.gateway.base.settings import CredentialTerms
from arx_caps.gateway.base.upstream_answer import LendingError
from arx_caps.gateway.upstream import person_credential
from arx_caps.gateway.upstream.credentials import LiveCall
from arx_caps.gateway.upstream.person_credential import PersonCredential, _key_of, _refuse, lives
from arx_verifier import Rule
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError
from arx_verifier.journal.record import ChainFacts
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.targets import subject_target
from tests.cli.helpers import service_file
from tests.gateway.door import Door, Upstream

pytestmark = pytest.mark.spec("CONTROL 9.3")
LINK = "https://mint.example/connect/x"
FACTS = {"agent": "acme/a", "session": "s-1", "task": "t-1", "subject": ("https://login.example", "ann")}


@pytest.mark.parametrize(
    "other",
    [
        {"subject": ("https://login.example", "bob")},
        {"subject": ("https://other.example", "ann")},
        {"subject": None},
        {"session": "s-2"},
        {"task": "t-2"},
    ],
)
def test_a_token_is_kept_for_one_person_session_and_task(other: dict[str, Any]) -> None:
    """A call that differs in one of them alone gets another token."""
    assert _key_of(ChainFacts(**FACTS), "tracker.get") == _key_of(ChainFacts(**FACTS), "tracker.get")
    assert _key_of(ChainFacts(**FACTS), "tracker.get") != _key_of(ChainFacts(**FACTS | other), "tracker.get")


def test_a_token_is_kept_for_one_tool() -> None:
    """Its scopes are those of the tool."""
    assert _key_of(ChainFacts(**FACTS), "tracker.get") != _key_of(ChainFacts(**FACTS), "tracker.put")


def lent(epochs: UnsafeLocalEpochs, *, ahead: int = 0, left_ms: int = 60_000) -> LentToken:
    """A token of now, or of a mint that has seen more kills than the view."""
    born = (epochs.incarnation, epochs.seq + ahead)
    return LentToken("canary", now_ms() + left_ms, "c-1", "ann-t", ("repo.read",), born)


PERSON = subject_target("https://login.example", "ann")


TARGETS = pytest.mark.parametrize("target", ["realm", PERSON, "connection:c-1"])


@TARGETS
def test_a_token_ends_where_the_view_is_behind_the_mint_that_lent_it(target: str) -> None:
    """By what the view has: a freeze, and a kill that came before those between."""
    for op in ("freeze", "kill"):
        epochs, facts = UnsafeLocalEpochs(), ChainFacts(**FACTS)
        token = lent(epochs, ahead=5)
        assert lives(token, facts, epochs)
        epochs.apply(9, op, target)
        assert not lives(token, facts, epochs)


@TARGETS
def test_a_kept_token_ends_with_each_of_its_targets(target: str) -> None:
    """By a kill, and by a freeze until the thaw."""
    epochs, facts = UnsafeLocalEpochs(), ChainFacts(**FACTS)
    token = lent(epochs)
    assert lives(token, facts, epochs)
    epochs.freeze(target)
    assert not lives(token, facts, epochs)
    epochs.thaw(target)
    assert lives(token, facts, epochs)
    epochs.kill(target)
    assert not lives(token, facts, epochs)
    assert lives(lent(epochs), facts, epochs)


def test_a_kept_token_ends_with_its_time_and_with_the_view() -> None:
    """A kill of others ends nothing; a view of no use, or of another history, ends it."""
    epochs, facts = UnsafeLocalEpochs(), ChainFacts(**FACTS)
    token = lent(epochs)
    epochs.kill(subject_target("https://login.example", "bob"), "connection:c-2")
    assert lives(token, facts, epochs)
    assert not lives(lent(epochs, left_ms=-1), facts, epochs)
    assert not lives(token, facts, UnsafeLocalEpochs())
    epochs.close()
    assert not lives(token, facts, epochs)


def test_a_token_is_kept_until_it_ends_or_is_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes in the place of a refused one displaces no other; one that has ended is in no memory."""
    KeyFile.generate("service", "orders", "http://127.0.0.1:1").save(tmp_path / "orders.key")
    file, epochs = service_file(tmp_path / "orders.json"), UnsafeLocalEpochs()
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"issuer": "http://127.0.0.1:1", "key_file": "orders.key"})
    )
    monkeypatch.setattr(person_credential, "_MOST_KEPT", 2)
    monkeypatch.setattr(person_credential, "_AGAIN_S", -1.0)
    asked: list[tuple[str, bool]] = []

    def ask(*about: Any) -> tuple[TokenAnswer, LentToken]:
        asked.append((about[4], bool(about[5])))
        return TokenAnswer("lent", "Ann", (), ()), lent(epochs)

    monkeypatch.setattr(person_credential, "ask_connection_token", ask)
    get, put = (LiveCall("token", tool, ChainFacts(**FACTS)) for tool in ("tracker.get", "tracker.put"))

    async def run() -> None:
        credential = PersonCredential("tracker", CredentialTerms(connection="tracker"), file, epochs)
        async with aiohttp.ClientSession() as session:
            for call in (get, put):
                await credential.headers(session, call)
            with pytest.raises(LendingError):
                credential.refused(401, {}, put)
            for call in (put, get):
                await credential.headers(session, call)
            assert asked == [("tracker.get", False), ("tracker.put", False), ("tracker.put", True)]
            epochs.kill("connection:c-1")
            monkeypatch.setattr(person_credential, "ask_connection_token", refuse)
            for call in (get, put):
                with pytest.raises(LendingError):
                    await credential.headers(session, call)
        assert credential._kept == {}
        await credential.close()

    def refuse(*_: Any) -> Any:
        raise GrantError("the connection has ended", code="connection_ended")

    asyncio.run(run())


def refusal(state: str) -> LendingError:
    answer = TokenAnswer(state, "Ann", ("repo.write",), ("repo.read",), LINK)
    with pytest.raises(LendingError) as raised:
        _refuse("tracker", answer)
    return raised.value


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("connection_missing", f"Ann has not connected tracker. Ask Ann to open {LINK}, then repeat this call once."),
        (
            "connection_scope",
            f"this call needs repo.write; the connection of Ann has repo.read. Ask Ann to open {LINK}",
        ),
        ("connection_ended", f"the connection of Ann to tracker has ended. Ask Ann to open {LINK},"),
        ("subject_required", "this tool works for a person only"),
    ],
)
def test_a_model_reads_what_to_ask_the_person_for(state: str, text: str) -> None:
    """As the result of the tool; a list of tools has an error with the same members."""
    error = refusal(state)

    def fail(_: str) -> Any:
        raise error

    realm = UnsafeTestRealm("files")
    caller = realm.caller(Rule(tool="files.get"))
    door = Door(realm, Upstream(fail))
    result = door.message(caller, "tools/call", {"name": "get", "arguments": {}})["result"]
    assert result["isError"] is True
    assert text in result["content"][0]["text"]
    data = result["_meta"]["dev.arx/refusal"]
    assert (data["code"], data["may_have_run"]) == (state, False)
    assert data["connect_url"] == LINK
    listed = door.message(caller, "tools/list")["error"]
    assert (listed["data"]["code"], text in listed["message"]) == (state, True)


def test_an_unknown_state_of_a_newer_mint_is_a_wait() -> None:
    """Nothing is forwarded."""
    error = refusal("something_else")
    assert (error.code, error.status, error.sent, error.wait_s) == ("connection_unavailable", 503, False, 2)
