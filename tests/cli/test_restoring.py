# SPDX-License-Identifier: Apache-2.0
"""What the pages tell whoever restores to type is typed, against real processes, and what they promise of it holds."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.pages import blocks
from tests.house.reader import Reader, run_line
from tests.servers import free_ports

AGENTS = "acme/support"  # whom the policy that a realm begins with knows
DOCS = Path(__file__).resolve().parents[2] / "docs"
pytestmark = pytest.mark.servers  # it waits for real processes, one after the other


class Keeper(Reader):
    """Whoever keeps a realm running, in one folder."""

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


@pytest.mark.slow
def test_a_realm_is_restored_as_the_pages_say(keeper: Keeper) -> None:
    """
    The mint's database, then the log's, then all of it without its store: each time the doctor finds nothing.

    What was enrolled since a backup of the mint is gone, what was killed stays revoked, and the log has lost nothing.
    """
    for name in ("before", "killed"):
        keeper.run(f"arx agent enrol {AGENTS}/{name} --key-out {name}.key")
    keeper.console(script("operations.md", "$ python3 -c 'import sqlite3"))
    keeper.console(script("audit.md", "$ python3 -c 'import sqlite3"))
    keeper.run(f"arx agent enrol {AGENTS}/after --key-out after.key")
    keeper.run(f"arx kill agent:{AGENTS}/killed --reason stolen --yes")
    keeper.run("arx audit key > log.key")
    keeper.stop()
    had = _size(keeper)

    keeper.play(script("operations.md", "cp mint-backup.db"))
    listed = keeper.run("arx agent list")
    assert (f"{AGENTS}/before" in listed, f"{AGENTS}/after" in listed) == (True, False)
    keeper.run("arx session open --key before.key --out before.session")
    assert "frozen" in keeper.run("arx session open --key killed.key --json", wanted=1)
    assert "mint.database_restored" in keeper.run("arx audit trail --tool mint.database_restored --flat")
    keeper.stop()
    assert _size(keeper) > had

    had = _size(keeper)
    keeper.play(script("audit.md", "cp backup.db"))
    keeper.run("arx doctor")
    keeper.run(f"arx agent deactivate {AGENTS}/before --yes")
    keeper.stop()
    assert _size(keeper) > had

    keeper.run("rm -rf .arx/valkey && mkdir -m 700 .arx/valkey")
    lines = script("operations.md", "arx up\narx doctor\narx audit reindex").splitlines(keepends=True)
    keeper.play("".join(line for line in lines if not line.startswith("arx audit reindex")))  # only where it is needed
    keeper.run("arx session open --key before.key --json", wanted=1)


def _size(keeper: Keeper) -> int:
    """How many records the log's files have, every one of which is checked."""
    said = keeper.run("arx audit verify .arx/log --key log.key")
    assert said.startswith("HOLDS")
    return int(re.sub(r"\D", "", (keeper.folder / ".arx/log/checkpoint").read_text().splitlines()[1]))
