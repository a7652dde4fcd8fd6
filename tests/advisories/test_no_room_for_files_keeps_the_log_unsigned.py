# SPDX-License-Identifier: Apache-2.0
"""An attacker who filled the mint's disk could keep records unsigned.

Files are a copy.  The log is signed without them, and they are made when there is room again, a part of each step.
"""

from pathlib import Path

import pytest

from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.store import publisher as publish
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from tests.audit.batches import batch_of, decision, facts
from tests.audit.conftest import store, url
from tests.audit.world import LOG

__all__ = ["store", "url"]

MADE = [decision(n, facts(f"s-{n % 5}")) for n in range(300)]


def signed(store: LogStore) -> int:
    """Return how many records are under a signed checkpoint."""
    raw = store.last_checkpoint()
    return 0 if raw is None else open_checkpoint(raw, LOG.key).checkpoint.size


def test_the_log_is_signed_where_no_file_can_be_written(store: LogStore, tmp_path: Path) -> None:
    """The error is reported, every record is signed, and all files exist in the end."""
    publisher, folder = Publisher(store, LOG, tmp_path / "log"), tmp_path / "log"
    folder.mkdir(exist_ok=True)
    (folder / "tile").write_bytes(b"in the place of the folder")
    for upto in (290, 300):
        store.take(batch_of(MADE[:upto]), "s")
        with pytest.raises(OSError, match="tile"):
            publisher.step()
        assert signed(store) == upto
    (folder / "tile").unlink()
    assert publisher.step()
    assert verify(folder, Trust(LOG.key)).records == 300


def test_the_log_is_signed_while_files_are_made(
    store: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mint without its folder signs with its first step, however long the files take."""
    store.take(batch_of(MADE[:299]), "s")
    assert Publisher(store, LOG, tmp_path / "log").step()
    store.take(batch_of(MADE), "s")
    monkeypatch.setattr(publish, "MAKE_S", 0.0)
    without = Publisher(store, LOG, tmp_path / "another")
    assert not without.step()
    assert (signed(store), without.published()) == (300, None)
    monkeypatch.undo()
    assert without.step()
    assert verify(tmp_path / "another", Trust(LOG.key)).records == 300
