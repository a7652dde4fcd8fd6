# SPDX-License-Identifier: Apache-2.0
"""The commands that the pages give for a restore run against real processes, and their promises are checked."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.pages import blocks
from tests.house.reader import Reader, run_line
from tests.servers import free_ports, until

AGENTS = "acme/support"  # whom the policy that a realm begins with knows
DOCS = Path(__file__).resolve().parents[2] / "docs"
pytestmark = pytest.mark.servers  # it waits for real processes, one after the other


class Keeper(Reader):
    """The operator of a realm, in one folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {})
        (port,) = free_ports(1)
        self.run(f"arx init --name acme --listen 127.0.0.1:{port}")

    def run(self, command: str, wanted: int = 0) -> str:
        """Type a command, see how it ends, and return what it writes."""
        done = run_line(command, self.folder)
        assert done.returncode == wanted, f"{command}\n{done.stdout}"
        return done.stdout

    def up(self) -> None:
        """Start the realm, and wait until it is there."""
        self._start("arx up", "ready: …\n")

    def play(self, script: str) -> None:
        """Type what a page says, line by line; a mint that it starts stays behind the prompt."""
        for line in script.splitlines():
            if line == "arx up":
                self.up()
            else:
                self.run(line.replace("arx audit reindex", "arx audit reindex --yes"))  # a person says it when asked


def script(page: str, begins: str) -> str:
    """Return the one script of a page that begins so."""
    (found,) = [block.text for block in blocks((DOCS / page).read_text("utf-8")) if block.text.startswith(begins)]
    return found


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    someone = Keeper(tmp_path)
    someone.up()
    yield someone
    someone.stop()


@pytest.mark.nightly
def test_a_realm_is_restored_as_the_pages_say(keeper: Keeper) -> None:
    """
    A backup is made, tried and restored with an empty store: earlier kills are still refused by each verifier.

    Then the log's database is put back alone, and has lost nothing.
    """
    for name in ("before", "killed"):
        keeper.run(f"arx agent enrol {AGENTS}/{name} --key-out {name}.key")
    keeper.run("arx session open --key before.key --out before.session")
    keeper.console(script("operations.md", "$ arx backup --out"))
    assert "backups: the last was made" in keeper.run("arx doctor")
    keeper.run(f"arx agent enrol {AGENTS}/after --key-out after.key")
    keeper.run(f"arx kill agent:{AGENTS}/killed --reason stolen --yes")
    keeper.run("cp .arx/keys/root.key root.key")
    assert "a server answers" in keeper.run("arx restore acme.arx-backup --into no --root-key-file root.key", wanted=2)
    keeper.stop()

    restoring, _, rest = script("operations.md", "arx restore acme").partition("export ARX_HOME=restored\n")
    keeper.run(restoring.strip())
    keeper.run("mv .arx former && mv restored .arx")
    keeper.run("arx operator list --json --operator-key former/operator.key", wanted=5)  # no mint yet
    keeper.play(rest.replace("restored/", ".arx/").replace("arx doctor\n", ""))
    assert "a server answers" in keeper.run("arx restore acme.arx-backup --into no --root-key-file root.key", wanted=2)
    keeper.run("arx operator list --operator-key former/operator.key", wanted=4)
    for agent in ("before", "killed"):
        assert "frozen" in keeper.run(f"arx session open --key {agent}.key --json", wanted=1)
    keeper.run(f"arx kill agent:{AGENTS}/killed --reason again --yes")
    keeper.run("arx thaw realm --reason looked --yes")
    keeper.run("arx session open --key before.key --out new.session")
    assert "frozen" in keeper.run("arx session open --key killed.key --json", wanted=1)
    keeper.run("arx task start lookup --session before.session --param order_id=o-1 --json", wanted=1)
    listed = keeper.run("arx agent list")
    assert (f"{AGENTS}/before" in listed, f"{AGENTS}/after" in listed) == (True, False)
    keeper.run("arx doctor")

    keeper.console(script("audit.md", "$ python3 -c 'import sqlite3"))
    keeper.run("arx audit key > log.key")
    keeper.run(f"arx agent deactivate {AGENTS}/before --yes")
    keeper.stop()
    had = _size(keeper)
    keeper.play(script("audit.md", "cp backup.db"))
    keeper.run("arx doctor")
    keeper.run("arx agent list")
    keeper.stop()
    assert _size(keeper) > had


@pytest.mark.nightly
def test_a_restored_realm_ends_the_history_of_a_store_that_was_kept(keeper: Keeper) -> None:
    """
    With the store of before, which has every kill, and with a copy that lacks them as the backup does: all is refused.
    """
    keeper.run(f"arx agent enrol {AGENTS}/before --key-out before.key")
    keeper.run("arx session open --key before.key --out before.session")
    keeper.run("arx backup --out backup")
    keeper.run("cp .arx/keys/root.key root.key")
    keeper.stop()
    keeper.run("cp -a .arx/valkey older")
    keeper.up()
    # A kill is unconfirmed until the verifiers' registry, which began with the store, is older than a lease.
    kill = f"arx kill agent:{AGENTS}/before --reason stolen --yes"
    until(lambda: run_line(kill, keeper.folder).returncode == 0)
    keeper.run("arx kill realm --reason all --yes && arx thaw realm --reason all --yes")  # a thaw that must not count
    keeper.stop()
    keeper.run("mv .arx former")
    for store in ("former/valkey", "older"):
        keeper.run("arx restore backup --into .arx --root-key-file root.key")
        keeper.run(f"rmdir .arx/valkey && cp -a {store} .arx/valkey")
        # Both stores have a later checkpoint of the log than the backup.
        keeper.run("rm -r .arx/log && cp -a former/log .arx/log")
        keeper.run("arx audit reindex --reason restored --yes")
        keeper.run("arx operator recover --key-out .arx/operator.key")
        keeper.up()
        assert "realm" in keeper.run("arx frozen list")
        assert "frozen" in keeper.run("arx session open --key before.key --json", wanted=1)
        keeper.run("arx thaw realm --reason looked --yes")
        keeper.run("arx task start lookup --session before.session --param order_id=o-1 --json", wanted=1)
        keeper.stop()
        keeper.run("rm -r .arx")


def _size(keeper: Keeper) -> int:
    """How many records the log's files have, every one of which is checked."""
    output = keeper.run("arx audit verify .arx/log --key log.key")
    assert output.startswith("HOLDS")
    return int(re.sub(r"\D", "", (keeper.folder / ".arx/log/checkpoint").read_text().splitlines()[1]))
