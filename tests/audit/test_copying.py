# SPDX-License-Identifier: Apache-2.0
"""A copy of a log's files is whole, whatever is written meanwhile, and continues the one that was there."""

from pathlib import Path

import pytest

from arx_caps.audit.merkle.errors import IncompleteError, TamperedError
from arx_caps.audit.merkle.mirror import copy_log
from arx_caps.audit.merkle.paths import CHECKPOINT
from arx_caps.audit.merkle.tiles import Fetch, TileWriter, fetch_from, leaf_of, prune
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.cli import exit_codes
from tests.audit.world import LOG, checkpoint_of, records, write
from tests.cli.helpers import arx

pytestmark = pytest.mark.spec("LOG 1.3")

KEPT = records(1500)
TRUST = Trust(LOG.key)


def grow(folder: Path, size: int) -> None:
    """Have a log grow to a size, as its mint does."""
    had = verify(folder, TRUST).checkpoint.size if (folder / CHECKPOINT).exists() else 0
    writer = TileWriter.resume(folder, had) if had else TileWriter(folder, durable=False)
    writer.append(map(leaf_of, KEPT[had:size]))
    writer.flush()
    writer.publish(checkpoint_of(KEPT[:size]))


def test_a_copy_follows_a_log_that_grows(tmp_path: Path) -> None:
    """Each time what is new is fetched and no more, narrower files of before go, and the copy verifies."""
    fetched: list[str] = []
    before = 0

    def fetch(path: str) -> bytes | None:
        fetched.append(path)
        return fetch_from(tmp_path / "log")(path)

    for size in (1, 200, 256, 300, 300, 700, 1500):
        grow(tmp_path / "log", size)
        fetched.clear()
        copied = copy_log(fetch, tmp_path / "copy")
        assert (copied.head.size, copied.gone) == (size, 0)
        assert verify(tmp_path / "copy", TRUST).records == size
        assert copied.files == len(fetched) - 2  # the checkpoint, and the changes of the key
        assert copied.files > 0 or before == size
        assert tree(tmp_path / "copy") == tree(tmp_path / "log")
        before = size


def tree(folder: Path) -> dict[str, bytes]:
    """The files that a log of this size has, by path; narrower ones of before, which its mint leaves, left out."""
    size = verify(folder, TRUST).checkpoint.size
    found = {str(each.relative_to(folder)): each for each in folder.rglob("*") if each.is_file()}
    partial = {path for path in found if ".p/" in path}
    last = {path for path in partial if int(path.rpartition("/")[2]) in (size % 256, size // 256)}
    return {path: each.read_bytes() for path, each in found.items() if path not in partial - last}


def test_what_is_written_meanwhile_does_not_harm(tmp_path: Path) -> None:
    """A log that grows past its checkpoint while it is read: partial files go, whole ones replace them."""
    grow(tmp_path / "log", 300)
    source = fetch_from(tmp_path / "log")

    def fetch(path: str) -> bytes | None:
        found = source(path)
        if path == CHECKPOINT:
            grow(tmp_path / "log", 1500)
            (tmp_path / "log/tile/0/.002.p.a1b2").write_bytes(b"half a file")
        return found

    assert copy_log(fetch, tmp_path / "copy").head.size == 300
    checked = verify(tmp_path / "copy", TRUST)
    assert (checked.checkpoint.size, checked.records) == (300, 300)
    assert copy_log(source, tmp_path / "copy").head.size == 1500
    assert verify(tmp_path / "copy", TRUST).records == 1500


@pytest.mark.spec("LOG 1.2")
def test_a_copy_takes_no_other_history(tmp_path: Path) -> None:
    """Rolled back, another history, another log: refused, and the copy's checkpoint stays what it was."""
    write(tmp_path / "log", KEPT[:700])
    copy_log(fetch_from(tmp_path / "log"), tmp_path / "copy")
    seen = (tmp_path / "copy" / CHECKPOINT).read_bytes()
    others = [KEPT[:300], [b"another", *KEPT[1:900]], [*KEPT[:699], b"another", *KEPT[700:900]]]
    for number, other in enumerate(others):
        log = write(tmp_path / f"other{number}", other)
        with pytest.raises(TamperedError):
            copy_log(fetch_from(log.folder), tmp_path / "copy")
        assert (tmp_path / "copy" / CHECKPOINT).read_bytes() == seen


def test_a_missing_one_is_reported(tmp_path: Path) -> None:
    """Bundles that retention took are counted; a tile of hashes has to be there, and so has a checkpoint."""
    write(tmp_path / "log", KEPT[:700])
    source: Fetch = fetch_from(tmp_path / "log")
    prune(tmp_path / "log", 700, 600)
    assert copy_log(source, tmp_path / "copy").gone == 2
    assert verify(tmp_path / "copy", Trust(LOG.key, since=512)).gone == ((0, 511),)
    (tmp_path / "log/tile/0/001").unlink()
    with pytest.raises(IncompleteError, match="tile/0/001"):
        copy_log(source, tmp_path / "second")
    assert not (tmp_path / "second" / CHECKPOINT).exists()
    with pytest.raises(IncompleteError, match="no checkpoint"):
        copy_log(fetch_from(tmp_path / "nothing"), tmp_path / "second")


def test_the_command_reports_how_it_went(tmp_path: Path) -> None:
    """0, and 1 where the log does not continue the copy, 3 where there is nothing yet."""
    realm, copy = tmp_path / "realm", tmp_path / "copy"
    assert arx("init", realm, "--name", "acme").exit_code == exit_codes.OK
    ran = arx("audit", "copy", copy, "--realm-dir", realm)
    assert (ran.exit_code, "no checkpoint" in ran.err) == (exit_codes.INCOMPLETE, True)
    write(realm / "log", KEPT[:300])
    output = arx("audit", "copy", copy, "--realm-dir", realm, "--json").json
    assert (output["size"], output["files"], output["gone"]) == (300, 5, 0)
    assert arx("audit", "verify", copy, "--key", str(LOG.key)).exit_code == exit_codes.OK
    write(realm / "log", KEPT[:200])
    assert arx("audit", "copy", copy, "--realm-dir", realm).exit_code == exit_codes.DENIED
