# SPDX-License-Identifier: Apache-2.0
"""Logs to be altered, and how."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from arx_caps.audit.merkle import paths
from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.verification import Trust
from tests.audit.world import LOG, Log, records, write

TRUST = Trust(LOG.key)


SMALL, LARGE = 44, 70_000


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A log of some dozens of records."""
    return write(tmp_path / "log", records(SMALL))


@pytest.fixture(scope="module")
def large_made(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A log with tiles of three levels."""
    return write(tmp_path_factory.mktemp("large"), [b"%d" % number for number in range(LARGE)])


@pytest.fixture
def large(large_made: Log, tmp_path: Path) -> Log:
    """A copy of it that may be altered; files are linked, so they are replaced and never written into."""
    shutil.copytree(
        large_made.folder, tmp_path / "large", copy_function=lambda *each: Path(each[1]).hardlink_to(each[0])
    )
    return large_made._replace(folder=tmp_path / "large")


def held(raw: bytes) -> Trust:
    """Trust of a reader who has seen a checkpoint before."""
    return Trust(LOG.key, held=open_checkpoint(raw, LOG.key))


def alter(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace a file by an altered one."""
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(change(raw))


def flip(place: int, by: int = 1) -> Callable[[bytes], bytes]:
    """Change one byte."""
    return lambda raw: raw[:place] + bytes([raw[place] ^ by]) + raw[place + 1 :]


def bundle_of(log: Log) -> Path:
    """The file of all records of a small log."""
    return log.folder / f"tile/entries/000.p/{log.size}"


def shown(log: Log, kept: list[bytes]) -> None:
    """Show other records in a small log's bundle."""
    bundle_of(log).write_bytes(paths.pack_entries(kept))


def altered_leaf(raw: bytes, place: int) -> bytes:
    kept, _ = paths.unpack_entries(raw)
    kept[place] += b"."
    return paths.pack_entries(kept)
