# SPDX-License-Identifier: Apache-2.0
"""A freeze ended the renewal of a session for ever, so that work in use was lost after the thaw.

The thread that renews took the refusal of a frozen session for its end.  After the thaw the session was used, but not
renewed, and ran out at its idle limit.
"""

import contextlib
import logging
from pathlib import Path

import pytest

from arx_caps.mint.api.app import create_app
from arx_caps.mint.server.init_realm import init_realm
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from tests.agent.live import LiveMint, serving
from tests.mint.harness import local_mint
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers
POLICY = '[session]\nagents = ["acme/**"]\nttl = "1h"\nidle = "4s"\n'


@pytest.mark.spec("CONTROL 2.1")
def test_a_session_is_renewed_after_a_thaw(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The refusal is logged, and the next look renews it."""
    caplog.set_level(logging.WARNING, logger="arx_caps.agent")
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    realm = init_realm(tmp_path / "realm", name="acme", issuer=f"http://{address}", listen=address)
    realm.policy_path.write_text(POLICY)
    with contextlib.ExitStack() as stack:
        mint = stack.enter_context(contextlib.closing(local_mint(realm)))
        stack.enter_context(serving(create_app(mint), port, lifespan="off"))  # or it would look for its store
        live = stack.enter_context(contextlib.closing(LiveMint(realm, tmp_path)))
        session = stack.enter_context(live.agent("acme/night")).open_session()
        epochs = mint.epochs
        assert isinstance(epochs, UnsafeLocalEpochs)
        first = session.expires_at
        epochs.freeze(f"session:{session.id}")

        def refused() -> bool:
            session.used()
            return bool(caplog.records)

        def renewed() -> bool:
            session.used()
            return session.expires_at > first

        until(refused)
        epochs.thaw(f"session:{session.id}")
        until(renewed)
