# SPDX-License-Identifier: Apache-2.0
"""Answers that are lost on their way from the mint: it is done once, and who asked for it knows of it.  CONTROL 4.4."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from arx_caps.agent.sessions import mint_client
from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.cli.access.mint_session import Caller
from arx_caps.credentials.keyfile import SigningKey
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.service import Invitation, exchange_token, join_service
from arx_verifier.clock import now_ms
from arx_verifier.errors import ProofError
from tests.agent.live import LiveMint, judged, live_mint
from tests.faults.proxy import Proxy

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 4.4")]
ORDER = {"order_id": "o-1"}
REFUND = {**ORDER, "amount": 20}


class Place(NamedTuple):
    """A mint, and the network before it."""

    mint: LiveMint
    network: Proxy
    db: MintDatabase

    def lost(self, call: Callable[[], Any], *kinds: str, answers: int = 2) -> Any:
        """Make a call whose answers are lost, its first repeat's too; what it makes is made once."""
        before = self.kinds()
        self.network.lose(answers)
        came = call()
        assert self.network.from_store.cuts == 0, "no answer was lost"
        made = self.kinds() - before
        assert {kind: made[kind] for kind in kinds} == dict.fromkeys(kinds, 1), made
        return came

    def kinds(self) -> Counter[str]:
        return Counter(event.kind for event in self.db.outbox.after(0, 10_000))


@pytest.fixture
def place(valkey: EmbeddedValkey, tmp_path: Path, realm_name: str, free_port: int) -> Iterator[Place]:
    network = Proxy(free_port)
    try:
        with (
            live_mint(tmp_path, store_url=valkey.url, name=realm_name, port=free_port, public=network.port) as mint,
            MintDatabase(mint.realm.database_url) as db,
        ):
            yield Place(mint, network, db)
    finally:
        network.close()


def test_an_agent_knows_of_all_that_it_has(place: Place) -> None:
    """Sessions and tasks are opened, started, extended, attenuated and ended once; what the agent then has works."""
    with place.mint.agent("acme/support/lost") as agent, place.mint.service("orders") as orders:
        session = place.lost(agent.open_session, "session.opened")
        assert [row.id for row in place.db.sessions.list()] == [session.id]
        task = place.lost(lambda: session.start_task("refund", REFUND), "task.started")
        assert [row.id for row in place.db.tasks.list()] == [task.id]
        more = place.lost(lambda: task.extend(ttl="5m"), "task.extended")
        assert len(place.db.grants.live(task.id)) == 2
        assert {judged(orders, each, "orders.get", ORDER) for each in (task, more)} == {"ok"}
        less = place.lost(lambda: task.attenuate_for_all(audiences=["orders"]), "task.attenuated")
        assert len(place.db.grants.live(task.id)) == 1
        assert judged(orders, less, "orders.get", ORDER) == "ok"
        assert {judged(orders, each, "orders.get", ORDER) for each in (task, more)} == {"revoked"}
        place.lost(session.renew)
        place.lost(less.finish, "task.ended")
        assert judged(orders, less, "orders.get", ORDER) == "revoked"
        with session:
            place.network.lose(1)
        assert place.db.sessions.list()[0].status == "ended"


class SendsTwice(httpx.HTTPTransport):
    """A proxy that gets no answer to the first removal of a thing in time, and sends it again."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "DELETE" and path not in self.seen:
            self.seen.add(path)
            super().handle_request(request).read()
        return super().handle_request(request)


def test_what_a_proxy_sent_twice_is_done(place: Place) -> None:
    """Its second attempt has a proof that was used; the caller signs anew, and what is done is answered as done."""
    proxy = SendsTwice()
    command = Caller.operator(place.mint.realm.operator_key_path)
    with place.mint.agent("acme/support/lost") as agent, httpx.Client(transport=proxy) as client:
        command.mint._http, direct = client, command._http
        direct.close()
        session = agent.open_session()
        session._mint._http, direct = client, session._mint._http
        task = session.start_task("refund", REFUND)
        assert task.finish()["task"]["id"] == task.id
        session.end()
        command.call("DELETE", "/v1/agents/acme/support/lost")
        direct.close()
    assert len(proxy.seen) == 3
    assert place.db.sessions.list()[0].status == "ended"


def test_a_service_gets_what_it_exchanges(place: Place, tmp_path: Path) -> None:
    """What may be exchanged once is exchanged once, and the service has what came of it; so with its own key."""
    asked = {"audience": "orders"}
    answer = place.lost(lambda: place.mint.operator("POST", "/v1/services/invitations", asked), "service.invited")
    invitation = Invitation(audience="orders", enrolment=answer["enrolment"], issuer=answer["issuer"])
    own, client = tmp_path / "orders.json", MintClient(answer["issuer"], now=now_ms)
    files = {"out": own, "key_out": tmp_path / "orders.key"}
    place.lost(lambda: join_service(invitation, client, **files), "service.joined", answers=1)
    client.close()
    with (
        place.mint.agent("acme/support/lost") as agent,
        place.mint.service("payments") as payments,
        agent.open_session() as session,
        session.start_task("refund", REFUND) as task,
    ):
        called = task.call_token("orders", "orders.get", ORDER)
        onwards = place.lost(lambda: exchange_token(own, called, "payments"), "token.exchanged")
        assert judged(payments, onwards, "payments.refund", REFUND) == "ok"
        with pytest.raises(ProofError, match="used before"):
            exchange_token(own, called, "payments")


def test_an_operator_makes_one_key(place: Place) -> None:
    """A root key that mints at once, and an audience's next key: a lost answer makes no second one, nor do commands."""
    command = Caller.operator(place.mint.realm.operator_key_path)
    body = {"path": "acme/support/by-hand", "jwk": SigningKey.generate().public.jwk}
    assert place.lost(lambda: command.call("POST", "/v1/agents", body), "agent.enrolled")["path"] == body["path"]
    command._http.close()
    operator = place.mint.operator
    place.mint.service_file("orders")
    rotated = place.lost(lambda: operator("POST", "/v1/root-keys/rotate", {"now": True}), "key.rotated", "key.created")
    assert [key["name"] for key in operator("GET", "/v1/root-keys")["keys"]] == ["k1", rotated["name"]]
    replaced = place.lost(
        lambda: operator("POST", "/v1/services/orders/replace-key", {"stolen": True}), "service.key_replaced"
    )
    assert replaced["kill"]["status"] in ("confirmed", "unconfirmed")  # a slow machine's registry may prove nothing yet


def test_a_request_without_an_answer_ends_with_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats are bounded; then the error says that it is not known, and at most one thing was made."""
    monkeypatch.setattr(mint_client, "PAUSES_S", (0.01, 0.01))
    with place.mint.agent("acme/support/lost") as agent:
        place.network.lose(3)
        with pytest.raises(mint_client.LostAnswerError, match="is not known"):
            agent.open_session()
        assert place.network.from_store.cuts == 0
        assert place.kinds()["session.opened"] == 1
