# SPDX-License-Identifier: Apache-2.0
"""An attacker with the text of a bound token, or with its holder's key, must not use one without the other.

The text leaks from a queue, a log, a database or a message; the key from a backup.  The attacker has keys of its own,
another task's text that is bound to the stolen key, and has seen calls at another service.  It tries at an application
behind the embedded verifier, at a gateway, and at the mint's exchange, as a service that may exchange.
"""

import logging
import pickle
from collections.abc import Callable, Iterator
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from arx_caps.agent import Task
from arx_caps.agent.tasks.bundle import Bundle
from arx_verifier import ArxMiddleware
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.token import call_proof, chain, holder, wire
from arx_verifier.token.call_proof import CallSigner
from arx_verifier.token.holder import HolderKey
from arx_verifier.token.macaroon import Macaroon
from tests.adapters.asgi_server import serving
from tests.gateway.served_door import Recorder, open_door
from tests.mint.harness import now_ms, open_unit
from tests.mint.test_bound_tasks import BOUND
from tests.mint.test_token_exchange import PAY, Shop
from tests.support import mint

pytestmark = pytest.mark.spec("16.1", "16.2", "16.3", "16.4")

WORKER, THIEF = HolderKey(b"w" * 32), HolderKey(b"t" * 32)
AGENT = "acme/support/worker"
SMALL = wire.text_of(bytes(32))  # y = 0, a point of order four
# Each makes a call from what the attacker has: the victim's token, the fields of the call, and a world of other texts.
Attack = Callable[[Macaroon, bytes, "Loot"], str]


class Loot:
    """What else the attacker has.

    Attributes:
        other: A token of another task that is bound to the same key, which the attacker has too.
        elsewhere: A call that the victim made at another service, with the text before it.
    """

    def __init__(self, other: Macaroon, elsewhere: str) -> None:
        self.other, self.elsewhere = other, elsewhere


def with_caveat(token: Macaroon, raw: bytes) -> Macaroon:
    return Macaroon(*chain.appended(*token.parts(), raw))


def with_call(token: Macaroon, fields: bytes, proof: Callable[[bytes, bytes], bytes]) -> str:
    """A call whose chain is right, with a proof of the attacker's making."""
    call = call_proof.split_call(CallSigner(mint(), "orders").sign(fields, now_ms()))
    assert call is not None
    made = proof(call.plain, token.parts()[1])
    raw = call.plain if not made else call.plain[:-2] + b',"' + made + b'"]}'
    body, signature = chain.appended(*token.parts(), raw)
    return wire.TOKEN_PREFIX + wire.text_of(body + wire.TAIL + signature)


def own_mac(token: Macaroon, fields: bytes, _: Loot) -> str:
    """The proof that the attacker's key and the audience's agree on."""
    bound = token.bound_to
    assert bound is not None
    common = THIEF.agree(bound.aud_key)
    return with_call(token, fields, lambda plain, s: holder.mac_of(holder.call_key(common, s, "orders"), plain))


def own_signature(token: Macaroon, fields: bytes, _: Loot) -> str:
    bound = token.bound_to
    assert bound is not None

    def proof(plain: bytes, s: bytes) -> bytes:
        return wire.text_of(
            THIEF.sign(holder.call_message("acme", "orders", bound.link, sha256(s).digest(), plain))
        ).encode()

    return with_call(token, fields, proof)


def delegated(token: Macaroon, fields: bytes, _: Loot) -> str:
    """To the attacker's key, signed by the attacker's."""
    return called(with_caveat(token, hop(token, THIEF, THIEF.public)), fields, THIEF)


def delegated_unsigned(token: Macaroon, fields: bytes, _: Loot) -> str:
    return with_call(with_caveat(token, b'{"hop":"AAAAAAAAAAAA","to":"acme/support/x"}'), fields, lambda *_: b"A" * 22)


def delegated_by_another_hop(token: Macaroon, fields: bytes, loot: Loot) -> str:
    """The signature that the holder made for a delegation of another task, to the attacker's key."""
    other = loot.other.packets[-1]
    assert isinstance(other, bytes)
    return called(with_caveat(token, other), fields, THIEF)


def delegated_to_no_point(token: Macaroon, fields: bytes, _: Loot) -> str:
    """To a key with which every proof is known: all agree on zeros."""
    made = with_caveat(token, hop(token, THIEF, SMALL))
    zero = bytes(32)
    return with_call(made, fields, lambda plain, s: holder.mac_of(holder.call_key(zero, s, "orders"), plain))


def proof_of_elsewhere(token: Macaroon, fields: bytes, loot: Loot) -> str:
    """The proof of a call at another service: the holder's key is the same there."""
    seen = call_proof.split_call(loot.elsewhere)
    assert seen is not None
    return with_call(token, fields, lambda *_: seen.proof)


def hop(token: Macaroon, by: HolderKey, key: str) -> bytes:
    """A delegation whose signature is the one that the attacker can make."""
    mine = Macaroon(*token.parts())
    bound = mine.bound_to
    assert bound is not None
    unsigned = f'{{"hop":"AAAAAAAAAAAA","key":"{key}","to":"acme/support/x"}}'.encode()
    link = chain.links_of(bound.link, (b"AAAAAAAAAAAA",))[0]
    message = holder.hop_message(
        "acme", "orders", link, "acme/support/x", key, holder.hop_digest(mine.parts()[1], unsigned)
    )
    sig = wire.text_of(by.sign(message))
    return f'{{"hop":"AAAAAAAAAAAA","key":"{key}","sig":"{sig}","to":"acme/support/x"}}'.encode()


def called(token: Macaroon, fields: bytes, key: HolderKey) -> str:
    return CallSigner(token, "orders", key).sign(fields, now_ms())


ATTACKS: dict[str, tuple[Attack, str]] = {
    "the text itself": (lambda token, *_: token.encode(), "proof_missing"),
    "no proof": (lambda token, fields, _: with_call(token, fields, lambda *_: b""), "proof_missing"),
    "a guess": (lambda token, fields, _: with_call(token, fields, lambda *_: b"A" * 22), "proof_invalid"),
    "no signature": (lambda token, fields, _: with_call(token, fields, lambda *_: b"A" * 86), "proof_invalid"),
    "its own key agrees": (own_mac, "proof_invalid"),
    "its own key signs": (own_signature, "proof_invalid"),
    "delegated to its own key": (delegated, "bad_signature"),
    "delegated and not signed": (delegated_unsigned, "malformed"),
    "a delegation of another task": (delegated_by_another_hop, "bad_signature"),
    "delegated to a point of small order": (delegated_to_no_point, "bad_signature"),
    "the proof of a call elsewhere": (proof_of_elsewhere, "proof_invalid"),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_unit(tmp_path_factory.mktemp("stolen") / "realm") as unit:
        yield Shop(unit, BOUND)


@pytest.fixture(scope="module")
def doors(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URLs of an application behind the embedded verifier, and of a gateway before another one."""
    app = Starlette(routes=[Route("/orders/{order_id}", lambda request: PlainTextResponse("served"))])
    verifier = shop.verifiers["orders"]
    embedded = ArxMiddleware(app, verifier=verifier, tools={"GET /orders/{order_id}": "orders.get"})
    realm: Any = SimpleNamespace(verifier=verifier)
    with (
        serving(embedded) as first,
        serving(Recorder()) as behind,
        open_door(
            realm,
            tmp_path_factory.mktemp("gateway"),
            url=f"http://127.0.0.1:{behind}",
            routes={"GET /orders/{order_id}": "orders.get"},
        ) as gateway,
    ):
        yield {"embedded": f"http://127.0.0.1:{first}/orders/o-1", "gateway": f"{gateway}/orders/o-1"}


@pytest.fixture
def victim(shop: Shop) -> Task:
    """A task that was delegated to a worker."""
    return start(shop).delegate(AGENT, key=WORKER.public)


def start(shop: Shop, **body: Any) -> Task:
    answer = shop.agent.call("POST", "/v1/tasks", PAY | body).json()
    return Task(Bundle.parse(answer["bundle"]), key=shop.agent.key)


@pytest.fixture
def loot(shop: Shop, victim: Task) -> Loot:
    """The worker also holds another task, which it delegated to the attacker; and it called payments."""
    holds = Task.from_text(start(shop).delegate(AGENT, key=WORKER.public).encode(), key=WORKER)
    other = holds.delegate("acme/support/x", key=THIEF.public).bundle.tokens["orders"]
    call = Task.from_text(victim.encode(), key=WORKER).call_token("payments", "payments.refund", {"order_id": "o-1"})
    return Loot(other, call)


def fields_of(url: str) -> bytes:
    return call_proof.http_fields(HttpCall("GET", httpx.URL(url).raw_path, sha256(b"").digest()))


def code_of(url: str, text: str) -> str:
    """The code of a door's answer; ``ok`` where the call was served."""
    answer = httpx.get(url, headers={"Authorization": f"Bearer {text}"})
    return "ok" if answer.status_code == 200 else str(answer.json()["code"])


@pytest.mark.parametrize("door", ["embedded", "gateway"])
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("seen", [False, True])
def test_a_text_without_its_key_opens_no_door(
    doors: dict[str, str], victim: Task, loot: Loot, attack: str, door: str, seen: bool
) -> None:
    """Also where the door has verified the victim's parent a moment ago, and keeps what it proved."""
    token, url = victim.bundle.tokens["orders"], doors[door]
    if seen:
        assert code_of(url, called(token, fields_of(url), WORKER)) == "ok"
    make, code = ATTACKS[attack]
    assert code_of(url, make(token, fields_of(url), loot)) == code
    assert code_of(url, called(token, fields_of(url), WORKER)) == "ok"


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_text_without_its_key_is_exchanged_for_nothing(shop: Shop, victim: Task, loot: Loot, attack: str) -> None:
    """By a service that may exchange what it is called with, and has no call of the victim."""
    make, code = ATTACKS[attack]
    text = make(victim.bundle.tokens["orders"], call_proof.tool_fields("orders.get", {"order_id": "o-1"}), loot)
    assert shop.exchange("orders", text)["code"] == code


@pytest.mark.parametrize("door", ["embedded", "gateway"])
def test_a_key_without_its_text_opens_no_door(shop: Shop, doors: dict[str, str], victim: Task, door: str) -> None:
    """The attacker's token is bound to the stolen key, and ends in other words; its proofs are for it alone."""
    url = doors[door]
    theirs = start(shop, params={"order_id": "o-2", "amount": 1}, holder=WORKER.public).bundle.tokens["orders"]
    text = called(theirs, fields_of(url), WORKER)
    assert code_of(url, text) == "argument_not_allowed"  # it is for another order
    # Its delegation, signed by the stolen key, in the place of the victim's.
    given = theirs.delegate("acme/support/x", key=THIEF.public, by=WORKER).packets[-1]
    assert isinstance(given, bytes)
    moved = with_caveat(victim.bundle.tokens["orders"], given)
    assert code_of(url, called(moved, fields_of(url), THIEF)) == "bad_signature"


@pytest.mark.parametrize("door", ["embedded", "gateway"])
def test_a_call_that_was_seen_is_of_no_more_use(doors: dict[str, str], victim: Task, door: str) -> None:
    """It comes once; its text before the call, which the observer has as well, makes no other."""
    url = doors[door]
    text = called(victim.bundle.tokens["orders"], fields_of(url), WORKER)
    assert [code_of(url, text) for _ in range(2)] == ["ok", "replayed"]


def test_no_key_is_in_a_log_or_a_text(
    shop: Shop, doors: dict[str, str], victim: Task, caplog: pytest.LogCaptureFixture
) -> None:
    """Of repr, description, errors and records; a key is not pickled with what holds it."""
    caplog.set_level(logging.DEBUG)
    held = Task.from_text(victim.encode(), key=WORKER)
    token = victim.bundle.tokens["orders"]
    texts = [repr(held), str(held.describe()), repr(WORKER), repr(CallSigner(token, "orders", WORKER))]
    for wrong in (THIEF, WORKER):
        try:
            Task.from_text(victim.encode(), key=wrong).delegate("acme/support/y")
        except Exception as error:
            texts.append(repr(error) + str(error) + str(error.__notes__))
    code_of(doors["embedded"], called(token, fields_of(doors["embedded"]), WORKER))
    decisions = shop.verifiers["orders"]
    text = held.call_token("orders", "orders.get", {"order_id": "o-1"})
    decision = decisions.decide(text, AccessRequest("orders.get", {"order_id": "o-1"}, now_ms()))
    texts += [caplog.text, str(decision.to_dict()), decision.pack().hex(), decision.pack().decode("latin-1")]
    for key in (b"w" * 32, b"t" * 32):
        for form in (key.decode(), key.hex(), wire.text_of(key)):
            assert not any(form in each for each in texts)
    for each in (held, WORKER):
        with pytest.raises(TypeError):
            pickle.dumps(each)
