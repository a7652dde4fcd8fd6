# SPDX-License-Identifier: Apache-2.0
"""A mint whose ``log/`` folder was removed while it signed published a checkpoint into a new, empty folder.

Readers found a checkpoint and no files, until the mint came round to them, ten minutes later.  A checkpoint is now only
shown in the folder that its files were written to; a folder that was removed is made again, files first.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from tests.audit.batches import batch_of, decision, facts
from tests.audit.world import LOG

MADE = [decision(n, facts(f"s-{n % 5}")) for n in range(600)]


class Removing(LogStore):
    """A log's database that has something done just before the mint publishes, when all records are in its files."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.then: Callable[[], object] = lambda: None

    def forget(self, before: int) -> None:
        super().forget(before)
        self.then()
        self.then = lambda: None


def remove_tiles(folder: Path) -> None:
    """Remove all files, and leave the folder, as where it is a volume."""
    shutil.rmtree(folder / "tile")
    (folder / "checkpoint").unlink()


def move(folder: Path) -> None:
    """Have another process move the folder away."""
    folder.rename(folder.with_name("elsewhere"))


@pytest.mark.parametrize("remove", [shutil.rmtree, remove_tiles, move])
@pytest.mark.parametrize("more", [0, 1, 300])
def test_no_checkpoint_is_shown_before_its_files(tmp_path: Path, remove: Callable[[Path], object], more: int) -> None:
    """Whether there is something new to sign or not: no checkpoint, or one that verifies, and soon the latter."""
    folder = tmp_path / "log"
    with Removing(f"sqlite:///{tmp_path / 'audit.db'}") as store:
        store.create()
        store.take(batch_of(MADE[:300]), "s")
        publisher = Publisher(store, LOG, folder)
        assert publisher.step()
        store.take(batch_of(MADE[: 300 + more]), "s")
        store.then = lambda: remove(folder)
        for _ in range(2):
            publisher.step()
            assert publisher.halted is None
            if (folder / "checkpoint").exists():
                assert verify(folder, Trust(LOG.key)).records == 300 + more
        assert verify(folder, Trust(LOG.key)).records == 300 + more


def test_a_checkpoint_whose_tiles_were_removed_goes_first(tmp_path: Path) -> None:
    """Where the tiles alone were removed their checkpoint is not shown either until they are made again."""
    folder = tmp_path / "log"
    with Removing(f"sqlite:///{tmp_path / 'audit.db'}") as store:
        store.create()
        store.take(batch_of(MADE[:300]), "s")
        publisher = Publisher(store, LOG, folder)
        assert publisher.step()
        shutil.rmtree(folder / "tile")
        store.then = lambda: shutil.rmtree(folder / "tile")  # and once more while they are made again
        for _ in range(3):
            publisher.step()
            if (folder / "checkpoint").exists():
                assert verify(folder, Trust(LOG.key)).records == 300
        assert verify(folder, Trust(LOG.key)).records == 300
