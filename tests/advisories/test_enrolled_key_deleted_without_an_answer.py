# SPDX-License-Identifier: Apache-2.0
"""An operator lost the key of an agent whose enrolment the mint had made and whose answer was lost.

``arx agent enrol`` deleted the new file after each failure.  CONTROL 4.4.
"""

from pathlib import Path

import pytest

from arx_caps.credentials.keyfile import KeyFile
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.db.mint_database import MintDatabase
from tests.agent.live import live_mint
from tests.cli.helpers import arx
from tests.faults.proxy import Proxy

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 4.4")]


@pytest.mark.parametrize(
    "words", [("agent", "enrol", "acme/support/new"), ("operator", "enrol", "night", "--role", "read-only")]
)
def test_a_key_that_may_be_enrolled_is_kept(
    valkey: EmbeddedValkey,
    tmp_path: Path,
    realm_name: str,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    """The mint enrols it and its answers are lost; the hint names the file and how to look."""
    network, key, save = Proxy(free_port), tmp_path / "new.key.json", KeyFile.save

    def save_before_the_network_fails(own: KeyFile, path: Path) -> None:
        save(own, path)
        network.lose(1_000)

    try:
        with live_mint(tmp_path, store_url=valkey.url, name=realm_name, port=free_port, public=network.port) as mint:
            monkeypatch.setattr(KeyFile, "save", save_before_the_network_fails)
            ran = arx(*words, "--key-out", key, "--realm-dir", mint.realm.folder)
            with MintDatabase(mint.realm.database_url) as db:
                enrolled = {row.holder for row in db.holder_keys.page()}
    finally:
        network.close()
    assert ran.exit_code != 0
    assert any(holder.endswith(words[2]) for holder in enrolled), enrolled
    assert f"the key may be enrolled, so {key} is kept: check with `arx {words[0]}" in ran.err
    assert KeyFile.load(key).name == words[2]
