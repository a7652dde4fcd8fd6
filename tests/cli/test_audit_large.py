# SPDX-License-Identifier: Apache-2.0
"""``arx audit verify`` on a log of many tiles: exit code and first bad record, whatever its keeper did."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from arx_caps.audit.merkle import paths, tree
from arx_caps.audit.merkle.note import Note
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.cli import exit_codes
from tests.audit.world import LOG, Log, body, checkpoint_of, records, selection_of, write
from tests.cli.helpers import arx

SIZE = 9_000  # 36 tiles of hashes, and one of the level above
KEPT = records(SIZE)
KEY = str(LOG.key)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """The log as it was signed."""
    return write(tmp_path_factory.mktemp("large") / "log", KEPT)


@pytest.fixture
def log(made: Log, tmp_path: Path) -> Log:
    """A copy whose files may be replaced."""
    shutil.copytree(made.folder, tmp_path / "log", copy_function=os.link)
    return made._replace(folder=tmp_path / "log")


class CheckResult(NamedTuple):
    """What the command says."""

    exit_code: int
    outcome: str
    first: int | None


def check(path: Path, *options: object) -> CheckResult:
    ran = arx("audit", "verify", path, "--key", KEY, "--json", *options)
    return CheckResult(ran.exit_code, ran.json["outcome"], ran.json.get("first_bad"))


def show(log: Log, kept: list[bytes]) -> None:
    """Show other records from some block on, each in the place where it would stand, under all that was signed."""
    for block in range(-(-max(len(kept), SIZE) // 256)):
        at = slice(block * 256, block * 256 + 256)
        if kept[at] == KEPT[at]:
            continue
        file = log.folder / paths.tile_at(paths.ENTRIES, block, SIZE).path
        file.unlink()
        if kept[at]:
            file.write_bytes(paths.pack_entries(kept[at]))


def without(index: int, count: int = 1) -> list[bytes]:
    return KEPT[:index] + KEPT[index + count :]


def swapped(one: int, two: int) -> list[bytes]:
    kept = list(KEPT)
    kept[one], kept[two] = kept[two], kept[one]
    return kept


TAMPERED, INCOMPLETE = (exit_codes.DENIED, "tampered"), (exit_codes.INCOMPLETE, "incomplete")


def test_it_holds(log: Log) -> None:
    """As it was signed."""
    assert check(log.folder) == (exit_codes.OK, "holds", None)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        pytest.param(without(0), (*TAMPERED, 0), id="head"),
        pytest.param(without(4_000), (*TAMPERED, 4_000), id="middle"),
        pytest.param(without(4_096, 256), (*TAMPERED, 4_096), id="a whole block in the middle"),
        pytest.param(KEPT[:-1], (*INCOMPLETE, None), id="tail"),
        pytest.param(KEPT[: SIZE - 300], (*INCOMPLETE, None), id="tail of more than a block"),
        pytest.param(swapped(700, 8_900), (*TAMPERED, 700), id="swapped, far apart"),
        pytest.param(swapped(255, 256), (*TAMPERED, 255), id="swapped, over an edge"),
        pytest.param([*KEPT[:5_000], b"nothing", *KEPT[5_001:]], (*TAMPERED, 5_000), id="changed"),
        pytest.param([*KEPT[:5_000], b"put in", *KEPT[5_000:-1]], (*TAMPERED, 5_000), id="put in"),
    ],
)
def test_what_is_done_to_records_is_found(log: Log, kept: list[bytes], message: tuple[int, str, int | None]) -> None:
    """All files behind the place are written anew, as a keeper would: the very record is named."""
    show(log, kept)
    assert check(log.folder) == message


@pytest.mark.parametrize("index", [0, 300, 8_191, SIZE - 1])
def test_a_keeper_who_writes_the_hashes_too_is_found(log: Log, index: int) -> None:
    """Record and hash agree, and the signature does not: the block of 256 is named, where the level above has it."""
    kept = [*KEPT[:index], b"nothing", *KEPT[index + 1 :]]
    show(log, kept)
    block = index // 256
    tile = log.folder / paths.tile_at(0, block, SIZE).path
    tile.unlink()
    tile.write_bytes(b"".join(map(tree.leaf_hash, kept[block * 256 : block * 256 + 256])))
    ran = arx("audit", "verify", log.folder, "--key", KEY, "--json")
    assert (ran.exit_code, ran.json["outcome"]) == TAMPERED
    assert ran.json["first_bad"] <= index <= ran.json["last_bad"]
    assert ran.json["last_bad"] - ran.json["first_bad"] == (255 if index < SIZE // 256 * 256 else SIZE - 1)


def test_another_end_or_history_is_found_by_a_kept_checkpoint(log: Log, tmp_path: Path) -> None:
    """Signed anew with the log's own key, each of them verifies by itself: a kept checkpoint shows where it changed."""
    seen = tmp_path / "seen"
    seen.write_bytes(checkpoint_of(KEPT))
    assert check(log.folder, "--checkpoint", seen)[:2] == (exit_codes.OK, "holds")
    older = write(tmp_path / "older", KEPT[: SIZE - 700])
    assert check(older.folder)[:2] == (exit_codes.OK, "holds")
    assert check(older.folder, "--checkpoint", seen) == (*TAMPERED, SIZE - 700)
    other = write(tmp_path / "other", [*without(8_000), b"more", b"and more"])
    assert check(other.folder)[:2] == (exit_codes.OK, "holds")
    assert check(other.folder, "--checkpoint", seen)[:2] == TAMPERED


@pytest.mark.spec("LOG 1.5")
@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b'"index":8000', b'"index":8001'),
        lambda raw: raw.replace(b'"body":"', b'"body":"AA'),
        lambda raw: b"\n".join([*raw.split(b"\n")[:2], *raw.split(b"\n")[3:]]),
        lambda raw: b"\n".join([raw.split(b"\n")[0], *raw.split(b"\n")[2:0:-1], *raw.split(b"\n")[3:]]),
        lambda raw: raw[: len(raw) // 2],
    ],
    ids=["moved", "another body", "left out", "swapped", "cut"],
)
def test_what_is_done_to_a_selection_is_found(log: Log, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    """Records out of the whole log, each with its proof: altered is 1, broken off is 3, and as it was it holds."""
    note = Note.parse(log.checkpoint)
    proofs = [RecordProof(KEPT[at], body(at), at, tuple(log.reader.inclusion(at)), note) for at in (5, 300, 8_000)]
    raw = selection_of(note, proofs)
    (tmp_path / "some").write_bytes(raw)
    assert check(tmp_path / "some")[:2] == (exit_codes.OK, "holds")
    assert change(raw) != raw
    (tmp_path / "some").write_bytes(change(raw))
    report = check(tmp_path / "some")
    assert report.exit_code == (exit_codes.INCOMPLETE if raw.startswith(change(raw)) else exit_codes.DENIED)
