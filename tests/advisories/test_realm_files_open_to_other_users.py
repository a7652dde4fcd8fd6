# SPDX-License-Identifier: Apache-2.0
"""Under an open umask, only the folder's mode kept other users from editing a realm's policy and kill log.

Only the folder's mode kept others out.  Once that was opened, by a backup that was restored or a well-meant ``chmod``,
any user of the machine could grant himself tasks by editing the policy, or thaw a kill by editing the store's log; and
``realm.toml`` may hold the store's password.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.runtime import MintRuntime
from tests.mint.harness import make_realm


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.servers
def test_every_file_of_a_realm_is_private_by_itself(tmp_path: Path) -> None:
    """Made, run and written to under umask 0, nothing in the folder is open to another user."""
    realm = make_realm(tmp_path / "realm")
    with EmbeddedValkey(realm.valkey_dir) as store:
        mint = MintRuntime.open(realm, store_url=store.url)
        mint.start()
        found = {
            str(path.relative_to(realm.folder)): oct(stat.S_IMODE(path.lstat().st_mode))
            for path in (realm.folder, *realm.folder.rglob("*"))
            if path.lstat().st_mode & 0o077
        }
        mint.close()
    assert found == {}
