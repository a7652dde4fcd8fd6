# SPDX-License-Identifier: Apache-2.0
"""A realm whose store may be broken, relays to it, and processes that decide all the time."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from tests.faults.witness import Witness
from tests.relay.processes import LEASE_MS, RelayProcess, watch
from tests.servers import until


@pytest.fixture
def store(own_valkey: EmbeddedValkey, realm_name: str) -> Iterator[RevocationStore]:
    """A realm with a lease of ``LEASE_MS``, and a registry that is older than that."""
    with RevocationStore(own_valkey.url, realm_name) as store:
        store.load_functions()
        store.init(lease_ms=LEASE_MS)
        registry = store.unacked(0, 0)
        until(lambda: store.unacked(0, 0).at_ms - registry.since_ms > LEASE_MS)
        yield store


@pytest.fixture
def relay(store: RevocationStore) -> Iterator[Callable[..., RelayProcess]]:
    """Start relays to a store or to another relay."""
    started: list[RelayProcess] = []
    with tempfile.TemporaryDirectory(prefix="arx") as folder:

        def start(url: str, name: str = "host") -> RelayProcess:
            started.append(RelayProcess(url, store.realm, Path(folder) / f"{name}.sock", name))
            return started[-1]

        yield start
        for one in started:
            one.kill()


@pytest.fixture
def verifiers(store: RevocationStore) -> Iterator[Callable[[str, int], list[Witness]]]:
    """Start verifiers that decide about a token, and have all accepted it when returned."""
    started: list[Witness] = []

    def start(url: str, count: int) -> list[Witness]:
        new = [Witness(url, store.realm, f"tool-{len(started) + index}") for index in range(count)]
        started.extend(new)
        watch(store, new)
        return new

    yield start
    for one in started:
        one.close()
