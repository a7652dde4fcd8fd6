# SPDX-License-Identifier: Apache-2.0
"""A mint with another issuer than the realm's was ready, and refused each call that a proxy sent it.

Callers sign their calls for the issuer, so it answered ``bad_proof`` to its share of them.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.runtime import MintRuntime
from tests.mint.harness import ISSUER, client_of, open_live
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.spec("CONTROL 4.9")]
OTHER = "https://mint.example"


def test_it_is_not_ready(
    tmp_path: Path, valkey: EmbeddedValkey, realm_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names both issuers, and lets a client ask another mint; the realm moves when no other mint runs."""
    monkeypatch.setattr("arx_caps.mint.runtime.ALIVE_MS", 2_000, raising=False)  # what a stopped mint is waited for
    with open_live(tmp_path / "realm", valkey.url, name=realm_name) as live:
        until(lambda: live.client.get("/readyz").status_code == 200)
        other = replace(live.realm, issuer=OTHER)
        second = client_of(MintRuntime.open(other, store_url=live.mint.store_url))
        with second:
            ready = second.get("/readyz")
            assert ready.status_code == 503
            (why,) = [reason for reason in ready.json()["because"] if "issuer" in reason]
            assert ISSUER in why, why
            assert OTHER in why, why
            refused = second.post("/v1/operators/token", json={"assertion": "x"})
            assert (refused.status_code, refused.json()["code"]) == (503, "fenced"), refused.text
            assert live.client.get("/readyz").json()["ready"] is True
            live.client.__exit__(None, None, None)
            until(lambda: second.get("/readyz").status_code == 200)
            assert [e["before"] for e in live.events() if e["kind"] == "mint.issuer_changed"] == [ISSUER]
