# SPDX-License-Identifier: Apache-2.0
"""In authgent, a holder could use the child of a revoked token; in actenon-permit, its grandchild.

ARx: a kill at any place of a chain ends everything from there on, at every depth and in every process, what is made
offline after the kill included; and nothing above it.
"""

import os
import time
from collections.abc import Iterator

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.follower import Follower
from arx_verifier.token import wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import HOP_BYTES, Macaroon
from arx_verifier.verification.verifier import Verifier
from tests.faults.witness import Forgetful, Witness
from tests.servers import until
from tests.support import ANYTHING, AUDIENCE, KEY, access, mint

pytestmark = pytest.mark.servers

DEPTH = 4
BY = "operator:ada"


@pytest.fixture
def services(valkey: EmbeddedValkey, realm_store: RevocationStore) -> Iterator[list[Witness]]:
    """Three processes of tool services."""
    started = [Witness(valkey.url, realm_store.realm, f"tool-{number}") for number in range(3)]
    yield started
    for service in started:
        service.close()


@pytest.fixture
def here(valkey: EmbeddedValkey, realm_store: RevocationStore) -> Iterator[Verifier]:
    """A verifier in this process, which records the links of a chain."""
    keys = KeyRing({"k1.0": KEY}, realm=realm_store.realm)
    follower = Follower(valkey.url, realm_store.realm, "here")
    verifier = Verifier(audience=AUDIENCE, keys=keys, epochs=follower, decisions=Forgetful())
    verifier.start()
    yield verifier
    verifier.close()


def make_chain(store: RevocationStore, letter: str) -> list[Macaroon]:
    """A token and what was handed on from it, hand by hand: w1, w2, w3, w4."""
    header, now = store.header(), time.time_ns() // 1_000_000
    chain = [
        mint(
            ANYTHING,
            realm=store.realm,
            born=(header.incarnation, header.seq),
            id=wire.text_of(os.urandom(16)),
            iat=now,
            exp=now + 600_000,
            depth=DEPTH + 1,
            session="s-" + letter * 16,
            task="t-" + letter * 16,
        )
    ]
    for number in range(1, DEPTH + 1):
        chain.append(chain[-1].delegate(f"acme/w{number}", Caveat(exp=now + 600_000 - number)))
    return chain


def show(services: list[Witness], tokens: dict[str, Macaroon], wanted: dict[str, str]) -> None:
    """Wait until every process decides so about every token."""
    for service in services:
        service.watch(**{name: token.encode() for name, token in tokens.items()})
    for service in services:
        until(lambda: service.codes() == wanted)  # noqa: B023


def named(chain: list[Macaroon]) -> dict[str, Macaroon]:
    return {f"w{number}": token for number, token in enumerate(chain)}


def link_targets(here: Verifier, chain: list[Macaroon]) -> list[str]:
    """The targets of the token itself and of each delegation."""
    until(lambda: here.decide(chain[-1].encode(), access(at=time.time_ns() // 1_000_000)).allowed)
    facts = here.verify(chain[-1].encode(), access(at=time.time_ns() // 1_000_000)).facts
    return [f"link:{facts.token}", *(f"link:{link}" for link in facts.links)]


@pytest.mark.slow
def test_a_kill_at_any_place_ends_all_from_there_on(
    realm_store: RevocationStore, services: list[Witness], here: Verifier
) -> None:
    """
    Every cut of a chain of four delegations, in three processes: what is below the cut is revoked, what is above lives;
    and so are the children that holders of the token make of them after the kill, without the mint.
    """
    for cut in range(DEPTH + 1):
        chain = make_chain(realm_store, "abcdefg"[cut])
        target = link_targets(here, chain)[cut]
        show(services, named(chain), dict.fromkeys(named(chain), "ok"))
        realm_store.kill([target], "test", BY)
        codes = {name: "revoked" if number >= cut else "ok" for number, name in enumerate(named(chain))}
        show(services, named(chain), codes)
        later = {
            f"{name}-{made}": child
            for name, token in named(chain).items()
            for made, child in (
                ("handed", token.delegate("acme/late", hop=os.urandom(HOP_BYTES))),
                ("attenuated", token.attenuate(Caveat(exp=2_000_000_000_000))),
            )
        }
        show(services, later, {name: codes[name.partition("-")[0]] for name in later})


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["session", "task", "agent", "middle agent", "realm"])
def test_a_wider_kill_ends_the_whole_chain(realm_store: RevocationStore, services: list[Witness], kind: str) -> None:
    """Session, task, agent and realm: every depth; an agent in the middle: from its delegation on, wherever made."""
    chain = make_chain(realm_store, "h")
    show(services, named(chain), dict.fromkeys(named(chain), "ok"))
    targets = {"session": "session:s-" + "h" * 16, "task": "task:t-" + "h" * 16, "agent": "agent:acme/support"}
    target = targets.get(kind, "agent:acme/w2" if kind == "middle agent" else "realm")
    realm_store.kill_by_kind([target], "test", BY)
    first = 2 if kind == "middle agent" else 0
    dead = {name: token for number, (name, token) in enumerate(named(chain).items()) if number >= first}
    tokens = named(chain) | {f"{name}-handed": token.delegate("acme/late") for name, token in dead.items()}
    if kind == "middle agent":
        tokens["w0-handed-to-it"] = chain[0].delegate("acme/w2")
    expected = {name: "ok" if name in named(chain) and name not in dead else "revoked" for name in tokens}
    show(services, tokens, expected)
