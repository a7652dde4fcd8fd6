# SPDX-License-Identifier: Apache-2.0
"""Real servers for tests: one Valkey a run, a fresh realm a test."""

import secrets
import socket
from collections.abc import Iterator

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation import RevocationStore


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A running server with ``.url``; its data end with the run."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def realm_name() -> str:
    """A realm that no other test uses."""
    return "t" + secrets.token_hex(6)


@pytest.fixture
def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def realm_store(valkey: EmbeddedValkey, realm_name: str) -> Iterator[RevocationStore]:
    """A store of a fresh realm: functions loaded, history begun."""
    with RevocationStore(valkey.url, realm_name) as store:
        store.load_functions()
        store.init()
        yield store
