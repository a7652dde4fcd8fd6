# SPDX-License-Identifier: Apache-2.0
"""What every fault is done to: a store that may be broken, links to it, and processes that decide all the time."""

import time
from collections.abc import Callable, Iterator

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.epoch import boot_clock
from tests.faults.proxy import Proxy
from tests.faults.witness import Witness
from tests.servers import FAST_LEASE_MS
from tests.support import ANYTHING, mint

BY = "operator:ada"
L_NS = FAST_LEASE_MS * 1_000_000
Watch = Callable[..., Witness]


@pytest.fixture
def store(own_fast_store: RevocationStore) -> RevocationStore:
    """A realm with a lease of ``FAST_LEASE_MS`` in a server that may be broken."""
    return own_fast_store


@pytest.fixture
def link(own_valkey: EmbeddedValkey) -> Iterator[Proxy]:
    """A network to it that may be broken."""
    proxy = Proxy(own_valkey.data_dir / "valkey.sock")
    yield proxy
    proxy.close()


@pytest.fixture
def start(store: RevocationStore) -> Iterator[Watch]:
    """Start processes that decide about a token of the realm, called ``token``, and accept it when returned."""
    started: list[Witness] = []

    def start(url: str, name: str = "tool", *, live: bool = True) -> Witness:
        witness = Witness(url, store.realm, name)
        started.append(witness)
        witness.watch(token=token(store))
        if live:
            witness.until("ok")
            witness.watch(token=token(store))
            witness.until("ok")
        return witness

    yield start
    for witness in started:
        witness.close()


def token(store: RevocationStore, session: str = "s-aaaaaaaaaaaaaaaa") -> str:
    """A token of a session, born now."""
    header, now = store.header(), time.time_ns() // 1_000_000
    born = (header.incarnation, header.seq)
    return mint(ANYTHING, realm=store.realm, born=born, iat=now, exp=now + 600_000, session=session).encode()


def kill(store: RevocationStore, session: str = "s-aaaaaaaaaaaaaaaa") -> int:
    """Kill a session; returns when that was acknowledged, boot clock, ns."""
    assert store.kill([f"session:{session}"], "test", BY).durable
    return boot_clock()


def bounded(witness: Witness, event: int, *, bound_ns: int = L_NS) -> None:
    """Hold a process to the bound: what it accepted after the event it began to decide before the lease was over."""
    late_ms = (witness.last_accepted() - event) / 1e6
    print_figure(late_ms, bound_ns)
    assert late_ms < bound_ns / 1e6


def print_figure(late_ms: float, bound_ns: int = L_NS) -> None:
    """Print a figure, which ``pytest -rP`` shows."""
    print(f"last accepted {late_ms:.1f} ms after the event, bound {bound_ns / 1e6:.0f} ms")
