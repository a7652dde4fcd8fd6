# SPDX-License-Identifier: Apache-2.0
"""An operator who put a backup back could run ``arx audit reindex`` at the first host, and not at the second.

docs/audit.md has it typed on every host that has a ``log`` folder, as one may be ahead.  The first run says in the log
that it was done; where the second host's files went further, that record was taken for a history of the database's own.
"""

from pathlib import Path

import pytest

from arx_caps.audit.ingest.entries import RECOVERED, make_note, read_event
from arx_caps.audit.integrity.repair import Reindexed, reindex
from arx_caps.audit.merkle.errors import TamperedError
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from tests.audit.test_backup import Backup, kept
from tests.audit.test_reindex import WHO, fill, sources
from tests.audit.world import LOG

__all__ = ["kept"]


def published(store: LogStore, upto: int, folder: Path) -> int:
    """Put in records, and have one mint sign and publish them; returns how many are signed."""
    fill(store, upto)
    Publisher(store, LOG, folder).step()
    return store.size()


@pytest.mark.slow
def test_every_host_brings_what_its_files_have(kept: tuple[LogStore, Backup], tmp_path: Path) -> None:
    """In either order of how far they go, and once more; the log goes on from the last of all."""
    made, backup = kept
    fill(made, 50)
    copy, before = backup(), made.size()
    sizes = [published(made, upto, tmp_path / name) for upto, name in ((100, "a"), (200, "b"), (300, "c"))]
    done = []
    for name in ("a", "c", "b", "a"):  # each in a process of its own, which remembers nothing of the others
        with LogStore(copy) as older:
            older.create()
            done.append(reindex(older, tmp_path / name, LOG.key, **WHO))
    with LogStore(copy) as older:
        assert done[0] == Reindexed(sizes[0] - before, 0)
        assert done[1] == Reindexed(sizes[2] - sizes[0] - 1, 1), "the first run's own record made way"
        assert done[2:] == [Reindexed(0, 0)] * 2
        assert older.size() == sizes[2] + 1
        last = older.record(sizes[2])
        assert last is not None
        assert read_event(last.kept, None).kind == RECOVERED
        known = sources(made)
        assert {name: mark for name, mark in sources(older).items() if name in known and name[0] != "log"} == {
            name: mark for name, mark in known.items() if name[0] != "log"
        }
        Publisher(older, LOG, tmp_path / "c").step()


@pytest.mark.slow
def test_any_other_record_stays(kept: tuple[LogStore, Backup], tmp_path: Path) -> None:
    """A record that was taken since, and never signed, goes only on an explicit option."""
    made, backup = kept
    fill(made, 50)
    copy = backup()
    for upto, name in ((100, "a"), (200, "b")):
        published(made, upto, tmp_path / name)
    with LogStore(copy) as older:
        older.create()
        reindex(older, tmp_path / "a", LOG.key, **WHO)
        with older.writing() as log:
            log.note(make_note("log.tested", "x", 1, {}, {}))
        with pytest.raises(TamperedError, match="not that of the signed records"):
            reindex(older, tmp_path / "b", LOG.key, **WHO)
