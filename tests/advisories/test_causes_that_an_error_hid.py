# SPDX-License-Identifier: Apache-2.0
"""An operator could not find four mistakes of a setting, because the error named another cause.

A clock that is off was "older than 30 seconds or from the future", without a number.  A wrong password of a relay was
"the relay closed the connection", one of the store "cannot connect: AuthenticationError".  The address of a tool
service as issuer was "the request carries no token".
"""

import secrets
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from arx_caps.agent import Agent
from arx_caps.credentials.jose import check_assertion, check_dpop, make_assertion, make_dpop
from arx_caps.credentials.keyfile import KeyFile
from arx_caps.revocation import acl
from arx_caps.revocation.store import RevocationStore
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.errors import GrantError, UnavailableError
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.follower_core import Following
from arx_verifier.revocation.store_link import OK, StoreAnswer
from tests.agent.live import serving
from tests.relay.conftest import store
from tests.relay.processes import RelayProcess
from tests.servers import until
from tests.support import AT, access, mint, sign, verifier

__all__ = ["store"]  # a fixture
URL = "https://mint.example/v1/sessions"
KEY = KeyFile.generate("agent", "acme/support", "https://mint.example")


@pytest.mark.parametrize(("off_s", "message"), [(-95, "95 s ahead"), (42, "42 s ago")])
def test_the_refusal_names_how_far_a_clock_is_off(off_s: int, message: str) -> None:
    """
    To a caller by its proof and its assertion, as whole seconds by the mint's clock.
    """
    proof = make_dpop(KEY.key, method="POST", url=URL, now=AT)
    with pytest.raises(GrantError, match=message) as caught:
        check_dpop(proof, method="POST", url=URL, now=AT + off_s * 1000)
    assert caught.value.code == "bad_proof"
    assertion = make_assertion(KEY, audience=KEY.issuer, now=AT)
    late_s = off_s if off_s < 0 else off_s + 3600
    with pytest.raises(GrantError, match=f"{abs(late_s)} s (ahead|ago)") as caught:
        check_assertion(assertion, lambda *_: KEY.key.public, audience=KEY.issuer, now=AT + late_s * 1000)
    assert caught.value.code == "bad_assertion"


@pytest.mark.parametrize(("off_ms", "message"), [(-3_500, "3500 ms after it"), (25_000, "25 s before it")])
def test_the_refusal_names_how_far_a_call_is_off(off_ms: int, message: str) -> None:
    """
    By a service, once the call is proven; before that it says nothing of its clock.
    """
    token = sign(mint(), access())
    refused = verifier().decide(token, access(at=AT + off_ms))
    assert (refused.code, refused.failures[0].came) == ("proof_invalid", f"{message}: set the clocks")
    forged = verifier().decide(sign(mint(key=b"x" * 32), access()), access(at=AT + off_ms))
    assert (forged.code, forged.failures) == ("bad_signature", ())


@pytest.mark.parametrize(("off_s", "message"), [(45, "45 s ahead of"), (-90, "90 s behind")])
def test_the_refusal_names_how_far_a_services_clock_is_off(
    off_s: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    From the store's, in the log and in the refusal of a view that is fenced.
    """
    view = Following(boot=lambda: 10**12, wall=lambda: (AT + off_s * 1000) * 1_000_000)
    view.adopt("I", 5, {}, {})
    view.begin()
    assert view.ask() is not None
    view.take_answer(StoreAnswer("I", 5, AT, 1000, OK, 60_000, "-", ()), lambda _: {})
    refused = view.check("I", 5, ())
    assert refused is not None
    assert refused.code == "fenced"
    for value in (refused.detail, caplog.text):
        assert f"this clock is {message} the revocation store's" in value


def first_log_line(follower: Follower, caplog: pytest.LogCaptureFixture) -> str:
    """Let it follow until the log says why it cannot."""
    follower.start()
    until(lambda: caplog.records)
    follower.close()
    return caplog.records[0].getMessage()


@pytest.mark.servers
@pytest.mark.parametrize(("user", "password"), [("orders", "wrong"), ("unknown", "p" * 9), ("", None)])
def test_a_store_that_refuses_the_login(
    store: RevocationStore, user: str, password: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A wrong password, a wrong user, and none where one is needed: the log names the variable, and never the password.
    """
    client, url = store.exchange.client, f"unix://{user}@{store_path(store)}" if user else f"unix://{store_path(store)}"
    client.execute_command("ACL", "SETUSER", "admin", "on", ">a", "~*", "&*", "+@all")
    client.execute_command("ACL", "SETUSER", "orders", *acl.rules("verifier", store.realm, "p" * 9))
    client.execute_command("ACL", "SETUSER", "default", "off")
    answer = first_log_line(Follower(url, store.realm, "v", password=password), caplog)
    assert "the store refused the user or password: set ARX_STORE_PASSWORD" in answer
    assert "wrong" not in caplog.text


@pytest.mark.servers
def test_a_store_that_does_not_permit_it(store: RevocationStore, caplog: pytest.LogCaptureFixture) -> None:
    """
    A user that may log in and not follow: the log says how to give it the rights.
    """
    store.exchange.client.execute_command("ACL", "SETUSER", "orders", "on", ">p", "+hello", "+client|setinfo", "+ping")
    url = f"unix://orders@{store_path(store)}"
    answer = first_log_line(Follower(url, store.realm, "v", password="p"), caplog)
    assert "NOPERM" in answer
    assert "`arx redis acl --role verifier`" in answer
    caplog.clear()
    assert "`arx redis acl --role mint`" in first_log_line(
        Follower(url, store.realm, "v", password="p", role="mint"), caplog
    )


@pytest.mark.servers
def test_a_relay_that_refuses_the_password(
    store: RevocationStore, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """
    With the wrong one, or for another realm, its follower's log says which it is and what to set; with the right ones
    it follows.
    """
    variables = {"ARX_RELAY_PASSWORD": "right"}
    listen = f"127.0.0.1:{free_port}"
    relay = RelayProcess(f"unix://{store_path(store)}", store.realm, listen, variables=variables)
    try:
        answer = first_log_line(Follower(f"relay://{listen}", store.realm, "v", password="wrong"), caplog)
        assert "the relay refused the password: set ARX_STORE_PASSWORD" in answer
        caplog.clear()
        answer = first_log_line(
            Follower(f"relay://{listen}", "t" + secrets.token_hex(4), "v", password="right"), caplog
        )
        assert "the relay refused the realm" in answer
        follower = Follower(f"relay://{listen}", store.realm, "v", password="right")
        assert follower.catch_up(0, 0, 20)
        follower.close()
    finally:
        relay.kill()


def store_path(store: RevocationStore) -> Path:
    return Path(store.exchange.client.connection_pool.connection_kwargs["path"])


@pytest.mark.servers
def test_a_service_is_no_mint(tmp_path: Path) -> None:
    """
    The error names the service's address as the issuer, instead of the refusal of a request without a token.
    """
    caught: list[UnavailableError] = []
    application = Starlette(routes=[Route("/x", lambda _: PlainTextResponse("x"))])
    with serving(ArxMiddleware(application, verifier=verifier(), tools={"GET /x": "orders.get"})) as port:
        issuer = f"http://127.0.0.1:{port}"
        KeyFile.generate("agent", "acme/support", issuer).save(tmp_path / "key")
        with Agent.from_key_file(tmp_path / "key") as agent, pytest.raises(UnavailableError) as error:
            agent.open_session()
        caught.append(error.value)
    assert caught[0].code == "not_a_mint"
    assert str(caught[0]).startswith(f"{issuer} is no mint")
    assert "missing_token" in str(caught[0])
