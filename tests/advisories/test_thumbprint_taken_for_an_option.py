# SPDX-License-Identifier: Apache-2.0
"""An operator could not remove one key in 64, because its thumbprint begins with ``-`` and was parsed as an option."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.credentials.keyfile import SigningKey
from tests.cli.live import AGENT, Live, live_realm
from tests.servers import free_ports

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A running realm with one agent."""
    folder = tmp_path_factory.mktemp("thumbprints")
    with live_realm(folder / "realm", free_ports(1)[0]) as realm:
        realm.ok("agent", "enrol", AGENT, "--key-out", folder / "agent.key")
        yield realm


@pytest.mark.slow
def test_a_thumbprint_that_begins_with_a_dash_is_an_argument(up: Live, tmp_path: Path) -> None:
    """The key is removed."""
    key = next(key for key in iter(SigningKey.generate, None) if key.kid.startswith("-"))
    (tmp_path / "public.jwk").write_text(json.dumps(key.public.jwk))
    up.ok("agent", "key", "add", AGENT, "--public-jwk", tmp_path / "public.jwk")
    left = up.ok("agent", "key", "remove", AGENT, key.kid)["agent"]
    assert key.kid not in json.dumps(left)
