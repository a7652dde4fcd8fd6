# SPDX-License-Identifier: Apache-2.0
"""What a service makes of what a mint answers: a file that it can start from is never replaced by another."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.keyfile import KeyFile, SigningKey
from arx_caps.service import Invitation, KeyRefresher, join_service
from arx_caps.service.fetch import fetch_keys, write_keys
from arx_verifier.errors import SettingsError, StoreError

pytestmark = pytest.mark.spec("CONTROL 3.2")

HERE = "http://127.0.0.1:8700"
KEY = "A" * 43
GOOD: dict[str, Any] = {
    "realm": "acme",
    "audience": "orders",
    "keys": [{"kid": "k1.1", "key": KEY, "published_at": 1}],
    "max_ttl_ms": 86_400_000,
    "refresh_ms": 60_000,
    "store": "redis://store",
}


def answering(content: Any, issuer: str = HERE) -> MintClient:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=content))
    return MintClient(issuer, now=lambda: 0, client=httpx.Client(transport=transport))


def service_file(folder: Path, **more: Any) -> Path:
    path = folder / "orders.json"
    content = {
        "v": 1,
        "realm": "acme",
        "audience": "orders",
        "max_ttl_ms": 86_400_000,
        "keys": {"k1.0": "B" * 42 + "A"},
    }
    path.write_text(json.dumps({**content, **more}))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"keys": []},
        {"keys": [{"kid": "k1.1", "key": "short"}]},
        {"keys": [{"kid": "k1.1", "key": "!" * 43}]},
        {"keys": [{"kid": "../x", "key": KEY}]},
        {"keys": {"k1.1": KEY}},
        {"max_ttl_ms": "1h"},
        {"refresh_ms": 0},
        {"realm": None},
    ],
)
def test_an_answer_that_cannot_be_used_is_refused(wrong: dict[str, Any]) -> None:
    """No key, a damaged one, another type: what answers is no mint, and no word of it is shown."""
    with pytest.raises(StoreError, match="expected audience keys") as caught:
        fetch_keys(answering({**GOOD, **wrong} if wrong else {}), SigningKey.generate())
    assert KEY not in str(caught.value)


def test_only_keys_are_written(tmp_path: Path) -> None:
    """All else in the file is its owner's; what is the same is not written again; another's file is left alone."""
    path = service_file(tmp_path, nonces="redis://n", journal="j")
    fetched = fetch_keys(answering(GOOD), SigningKey.generate())
    assert write_keys(path, fetched) is True
    content = json.loads(path.read_text())
    assert (content["keys"], content["nonces"], content["journal"]) == ({"k1.1": KEY}, "redis://n", "j")
    assert path.stat().st_mode & 0o777 == 0o600
    assert write_keys(path, fetched) is False
    before = path.read_text()
    for other in ({"realm": "elsewhere"}, {"audience": "payments"}):
        with pytest.raises(SettingsError, match="is the file of"):
            write_keys(path, fetch_keys(answering({**GOOD, **other}), SigningKey.generate()))
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("issuer", ["http://mint.example", "http://10.0.0.7:8700", "ftp://127.0.0.1"])
def test_keys_and_tokens_travel_in_no_clear(tmp_path: Path, issuer: str) -> None:
    """Plain HTTP to another machine is refused before anything is sent."""
    asked: list[httpx.Request] = []
    transport = httpx.MockTransport(lambda request: asked.append(request) or httpx.Response(500))
    mint = MintClient(issuer, now=lambda: 0, client=httpx.Client(transport=transport))
    with pytest.raises(SettingsError, match="https"):
        fetch_keys(mint, SigningKey.generate())
    with pytest.raises(SettingsError, match="https"):
        join_service(Invitation("orders", "arxe1_x", issuer), mint, out=tmp_path / "a", key_out=tmp_path / "b")
    assert asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_refresher_needs_the_service_s_own_key(tmp_path: Path) -> None:
    """An agent's key, another service's, or none: the error comes at once."""
    for role, name in (("agent", "acme/x"), ("service", "payments")):
        key = tmp_path / f"{role}.key"
        KeyFile.generate(role, name, HERE).save(key)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match=r"not of service:orders"):
            KeyRefresher(service_file(tmp_path, issuer=HERE, key_file=key.name))
    with pytest.raises(SettingsError, match="cannot be read"):
        KeyRefresher(service_file(tmp_path, issuer=HERE, key_file="gone.key"))
