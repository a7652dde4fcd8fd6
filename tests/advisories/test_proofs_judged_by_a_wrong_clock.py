# SPDX-License-Identifier: Apache-2.0
"""A mint whose clock was wrong judged proofs by it, though the store had reported how wrong it was.

It refused every good proof with 401, so that a proxy passed no call on to the other mint, and it took proofs that
suited its clock alone.  A call that a proxy had sent to two mints was ``replayed``, also where it only looked.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.jose import KeyFile, make_assertion, make_dpop
from arx_caps.embedded import EmbeddedValkey
from arx_caps.settings.realm import Realm
from arx_verifier.revocation.follower_core import Following
from arx_verifier.revocation.store_link import OK, RESYNC, StoreAnswer
from tests.mint.harness import ISSUER, make_realm, now_ms
from tests.mint.processes import MintProcess
from tests.servers import until
from tests.support import AT

OFF_S = 40
PATH = "/v1/operators/token"


@pytest.fixture
def realm(tmp_path: Path, realm_name: str) -> Realm:
    return make_realm(tmp_path / "realm", realm_name)


@pytest.fixture(params=[OFF_S, pytest.param(-OFF_S, marks=pytest.mark.nightly)], ids=["ahead", "behind"])
def wrong(realm: Realm, valkey: EmbeddedValkey, request: pytest.FixtureRequest) -> Iterator[MintProcess]:
    """A mint whose clock is wrong, and which knows that from the store."""
    mint = MintProcess(realm, valkey.url, clock_s=request.param)
    try:
        until(lambda: httpx.get(mint.url + "/readyz").status_code == httpx.codes.SERVICE_UNAVAILABLE)
        yield mint
    finally:
        mint.kill()


def sign_in(realm: Realm, mint: MintProcess, now: int) -> httpx.Response:
    key = KeyFile.load(realm.operator_key_path)
    proof = make_dpop(key.key, method="POST", url=ISSUER + PATH, now=now)
    body = {"assertion": make_assertion(key, audience=ISSUER, now=now)}
    return httpx.post(mint.url + PATH, json=body, headers={"DPoP": proof})


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize(
    "suits", [pytest.param(False, marks=pytest.mark.nightly), True], ids=["good proof", "proof by the wrong clock"]
)
def test_no_proof_is_judged(realm: Realm, wrong: MintProcess, suits: bool, request: pytest.FixtureRequest) -> None:
    """503, whatever the proof says, and why; ``/readyz`` says by how much the clock is off."""
    off_s = request.node.callspec.params["wrong"]
    answer = sign_in(realm, wrong, now_ms() + (off_s * 1000 if suits else 0))
    assert (answer.status_code, answer.json()["code"]) == (503, "fenced"), answer.text
    assert answer.headers["Retry-After"]
    [why] = httpx.get(wrong.url + "/readyz").json()["because"]
    assert why == answer.json()["detail"]
    reply = "ahead of" if off_s > 0 else "behind"
    assert any(f"this clock is {seconds} s {reply}" in why for seconds in (OFF_S - 1, OFF_S, OFF_S + 1)), why


class Proxy(httpx.BaseTransport):
    """What stands before the mints, to this client alone."""

    def __init__(self, *urls: str) -> None:
        self.sent: list[int] = []
        self._urls, self._http = [httpx.URL(url) for url in urls], httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send each request to the next mint."""
        to = self._urls[len(self.sent) % len(self._urls)]
        request.url = request.url.copy_with(host=to.host, port=to.port)
        answer = self._http.handle_request(request)
        self.sent.append(answer.status_code)
        return answer

    def close(self) -> None:
        self._http.close()


@pytest.mark.slow
@pytest.mark.servers
def test_a_client_goes_on_at_the_other_mint(realm: Realm, wrong: MintProcess, valkey: EmbeddedValkey) -> None:
    """A proxy repeats no POST, so the client does, with a proof of its own; what only looks is repeated as well."""
    right = MintProcess(realm, valkey.url)
    try:
        proxy, key = Proxy(wrong.url, right.url), KeyFile.load(realm.operator_key_path)
        with httpx.Client(transport=proxy) as http:
            client = MintClient(ISSUER, now=now_ms, client=http)
            body = {"assertion": make_assertion(key, audience=ISSUER, now=now_ms())}
            token = client.call("POST", PATH, key=key.key, body=body)["token"]
            assert client.call("GET", "/v1/agents", key=key.key, token=token)["agents"] == []
        assert proxy.sent == [503, 201, 503, 200]
    finally:
        right.kill()


class Impatient(Proxy):
    """A proxy that gives up waiting for the first answer, and sends the request again."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not self.sent:
            with contextlib.closing(super().handle_request(request)) as lost:
                lost.read()
        return super().handle_request(request)


@pytest.mark.slow
@pytest.mark.servers
def test_a_look_that_a_proxy_sent_twice_is_answered(realm: Realm, valkey: EmbeddedValkey) -> None:
    """Its second proof is not ``replayed``: no other caller can have used the first."""
    mint = MintProcess(realm, valkey.url)
    try:
        proxy, key = Impatient(mint.url), KeyFile.load(realm.operator_key_path)
        token = sign_in(realm, mint, now_ms()).json()["token"]
        with httpx.Client(transport=proxy) as http:
            client = MintClient(ISSUER, now=now_ms, client=http)
            assert client.call("GET", "/v1/agents", key=key.key, token=token)["agents"] == []
        assert proxy.sent == [200, 401, 200]
    finally:
        mint.kill()


def test_a_clock_that_was_set_right_judges_again() -> None:
    """Each answer of the store says it anew, also one that grants nothing."""
    wall_ms = AT
    view = Following(boot=lambda: 10**12, wall=lambda: wall_ms * 1_000_000)
    for off_s, status, judges in ((OFF_S, RESYNC, False), (OFF_S, OK, False), (0, OK, True), (-OFF_S, OK, False)):
        wall_ms = AT + off_s * 1000
        view.begin()
        assert view.ask() is not None
        view.take_answer(StoreAnswer("I", 5, AT, 1000, status, 60_000, "-", ()), lambda _: {})
        assert (view.wrong_clock() is None) == judges
        assert (view.check("I", 5, ()) is None) == judges
