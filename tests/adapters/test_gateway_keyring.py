# SPDX-License-Identifier: Apache-2.0
"""Secrets of the gateway from a keyring, whose backend is a file."""

from pathlib import Path

import keyring
import pytest
from keyrings.alt.file import PlaintextKeyring

from arx_caps.gateway.upstream.credentials import read_secret
from arx_verifier.errors import SettingsError


def test_a_secret_comes_from_a_keyring(tmp_path: Path) -> None:
    """By service and user, where a service may have a slash; a missing one is an error without a text of it."""
    backend = PlaintextKeyring()
    backend.file_path = str(tmp_path / "keyring")
    keyring.set_keyring(backend)
    keyring.set_password("arx/orders", "gateway", "canary")
    assert read_secret("keyring:arx/orders/gateway", tmp_path) == "canary"
    for place in ("keyring:arx/orders/other", "keyring:arx/orders", "keyring:"):
        with pytest.raises(SettingsError) as refused:
            read_secret(place, tmp_path)
        assert "canary" not in str(refused.value)
