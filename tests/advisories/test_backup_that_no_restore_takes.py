# SPDX-License-Identifier: Apache-2.0
"""An operator who backed up a realm whose database was put back got a file that no restore took, over a good one.

Until ``arx audit reindex`` the database lacks records that the log's checkpoint signs.  A daily backup of that time
ended with success, and ``--replace`` removed the one of before.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from arx_caps.audit.integrity.repair import reindex
from arx_caps.audit.merkle.errors import IncompleteError
from arx_caps.mint.audit.log import open_store
from arx_caps.mint.backup.restorer import Secrets, try_backup
from arx_caps.mint.backup.writer import make_backup
from tests.mint.harness import log_signer, make_realm, roots_of
from tests.mint.test_backups import fill

pytestmark = pytest.mark.spec("CONTROL 8.1")


def test_no_backup_is_made_of_an_older_database(tmp_path: Path) -> None:
    """The good one stays, and holds; once the log is whole again, a new one holds."""
    realm, older, out = make_realm(tmp_path / "realm"), tmp_path / "older.db", tmp_path / "backup"
    fill(realm, 2)
    with closing(sqlite3.connect(realm.audit_path)) as now, closing(sqlite3.connect(older)) as copy:
        now.backup(copy)
    fill(realm, 4)
    make_backup(realm, roots_of(realm), out)
    good = out.read_bytes()
    with closing(sqlite3.connect(older)) as copy, closing(sqlite3.connect(realm.audit_path)) as now:
        copy.backup(now)

    with pytest.raises(IncompleteError, match=r"has 100 records, and 200 were signed.*arx audit reindex"):
        make_backup(realm, roots_of(realm), out, replace=True)
    assert out.read_bytes() == good

    with open_store(realm) as store:
        reindex(store, realm.log_dir, log_signer(realm).key, by="test", reason="the database was put back")
    assert make_backup(realm, roots_of(realm), out, replace=True).manifest.records >= 200
    assert try_backup(out, Secrets(None, realm.root_key_path), realm=realm).checked.records >= 200
