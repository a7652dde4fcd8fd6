# SPDX-License-Identifier: Apache-2.0
"""An agent that was killed until a thaw could open sessions, once store and database were both restored.

The mint restored the freezes of its database, which was older than the kill.  The signed log had the kill, also after
its rebuild from the files, and neither the mint nor the doctor looked there.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_restoring import AGENTS, Keeper
from tests.house.reader import LATE

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.12")]

KILLED = ("one", "two")
PARTS = ("mint.db", "audit.db", "valkey")


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    """A realm that runs."""
    one = Keeper(tmp_path)
    one.up()
    yield one
    one.stop()


def copy(source: Path, target: Path) -> None:
    """Copy the store's and the databases' files of a realm that is stopped; the log's files stay as they are."""
    target.mkdir(exist_ok=True)
    for part in PARTS:
        for path in target.glob(f"{part}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in source.glob(f"{part}*"):
            shutil.copytree(path, target / path.name) if path.is_dir() else shutil.copy2(path, target)


@pytest.mark.slow
def test_what_was_killed_until_a_thaw_stays_frozen(keeper: Keeper) -> None:
    """No session before the log is whole; then the killed ones are frozen, by the log, and the thawed one is not."""
    for name in (*KILLED, "thawed"):
        keeper.run(f"arx agent enrol {AGENTS}/{name} --key-out {name}.key")
    keeper.stop()
    realm, backup = keeper.folder / ".arx", keeper.folder / "backup"
    copy(realm, backup)
    keeper.up()
    every = " ".join(f"agent:{AGENTS}/{name}" for name in (*KILLED, "thawed"))
    # In force; the verifiers' confirmations do not matter here.
    keeper.run(f"arx kill {every} --reason stolen --yes || test $? = {LATE}")
    keeper.run(f"arx thaw agent:{AGENTS}/thawed --reason back --yes || test $? = {LATE}")
    keeper.stop()
    copy(backup, realm)

    keeper.up()
    for name in (*KILLED, "thawed"):
        refused = keeper.run(f"arx session open --key {name}.key --out {name}.session", wanted=5)
        assert "arx audit reindex" in refused
    keeper.stop()
    keeper.run("arx audit reindex --yes --reason restored")

    keeper.up()
    for name in KILLED:
        refused = keeper.run(f"arx session open --key {name}.key --out {name}.session", wanted=1)
        assert "an operator froze this work" in refused
    keeper.run("arx session open --key thawed.key --out thawed.session")
    frozen = keeper.run("arx frozen list --wide")
    assert [f"agent:{AGENTS}/{name}" in frozen for name in (*KILLED, "thawed")] == [True, True, False]
    keeper.run("arx doctor")
    keeper.run(f"arx thaw agent:{AGENTS}/one --reason back --yes || test $? = {LATE}")
    keeper.run("arx session open --key one.key --out one.session")
