# SPDX-License-Identifier: Apache-2.0
"""A mint that was stopped while another one signed took the gap for tampering and never signed again.

It caught up in memory, and then read the proof for the last checkpoint that it had published itself out of files that
it had not written yet.  Every batch got a 503, and no later start mended it.
"""

from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from tests.mint.rolling import fleet, roll
from tests.postgres import Postgres

pytestmark = pytest.mark.servers
ROUNDS = 2  # `make nightly` does fifty


@pytest.mark.slow
def test_two_mints_are_restarted_in_turn(
    tmp_path: Path, realm_name: str, postgres: Postgres, valkey: EmbeddedValkey
) -> None:
    """Each goes on signing behind what the other one signed; every batch is taken, and both folders hold."""
    with fleet(tmp_path, realm_name, postgres, valkey.url) as made:
        assert roll(made, ROUNDS) > 0
