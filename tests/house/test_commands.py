# SPDX-License-Identifier: Apache-2.0
"""The commands and programs of the guides, typed in one realm, with the ids and paths of this machine."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live, live_realm
from tests.house.pages import ROOT, blocks, matches
from tests.house.reader import run_line, run_python
from tests.servers import child, free_ports


class Typist:
    """A person who types blocks of the pages beside a running realm.

    Args:
        folder: The folder with the realm's ``.arx``.
        live: The realm.
    """

    def __init__(self, folder: Path, live: Live) -> None:
        self.folder, self.live = folder, live

    def block(self, page: str, containing: str) -> str:
        """Return the one block of a page that contains a text."""
        (text,) = [block.text for block in blocks((ROOT / page).read_text("utf-8")) if containing in block.text]
        return text

    def type(self, page: str, containing: str, replaced: dict[str, str] | None = None) -> None:
        """Type each line of a block, with some texts replaced; each command must succeed."""
        text = self.block(page, containing).replace("$ ", "")
        for shown, own in (replaced or {}).items():
            assert shown in text, shown
            text = text.replace(shown, own)
        for line in text.splitlines():
            self.line(line.partition("  #")[0])

    def line(self, line: str) -> None:
        """Type a line, and answer yes to a question; the command must succeed."""
        done = run_line(line, self.folder)
        if done.returncode == 2 and "--yes" in done.stdout:
            done = run_line(f"{line} --yes", self.folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}"

    def json(self, command: str) -> dict[str, object]:
        """Return what a command prints with ``--json``."""
        found: dict[str, object] = json.loads(run_line(f"{command} --json --quiet", self.folder).stdout)
        return found


@pytest.fixture(scope="module")
def typist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typist]:
    """A person beside a running realm."""
    folder = tmp_path_factory.mktemp("typist")
    with live_realm(folder / ".arx", free_ports(1)[0]) as live:
        yield Typist(folder, live)


def kids(found: dict[str, object]) -> list[str]:
    """Return the key ids, thumbprints of RFC 7638, in the output of a command."""
    return re.findall(r'"([\w-]{43})"', json.dumps(found))


@pytest.mark.nightly
@pytest.mark.servers
def test_operators_come_and_go_as_the_page_shows(typist: Typist) -> None:
    """
    docs/operations.md: an operator is enrolled, gets a role and a key, and is removed; rules of one's own; recovery.
    """
    page = "docs/operations.md"
    shown = typist.block(page, "arx operator enrol night-watch")
    for line in shown.splitlines():
        if "OLD_KID" in line:
            line = line.replace("OLD_KID", kids(typist.json("arx operator show night-watch"))[0]).partition("#")[0]
        typist.line(line)
    (typist.folder / "rules.json").write_text(typist.block(page, "arx.tasks.finish"), "utf-8")
    typist.line("arx operator enrol reader --rules rules.json --key-out reader.key")
    typist.type(page, "arx operator recover --key-out root.key")


@pytest.mark.nightly
@pytest.mark.servers
def test_a_service_enrols_and_ships_as_the_pages_show(typist: Typist) -> None:
    """
    docs/service.md, docs/operations.md: a service enrols, ships, exports its numbers, and is replaced.
    """
    typist.type("docs/service.md", "arx service enrol orders")
    typist.type("docs/service.md", "arx ship orders.json", {"ship orders.json": "ship --once orders.json"})
    for name in ("orders.py", "main.py"):
        (block,) = [
            each for each in blocks((ROOT / "docs/service.md").read_text("utf-8")) if f"`{name}`" in each.before
        ]
        (typist.folder / name).write_text(block.text, "utf-8")
    (typist.folder / "run.py").write_text("import main\nprint(callable(main.app))\n", "utf-8")
    assert run_python(typist.folder / "run.py") == "True\n"
    numbers = "import main\nfrom prometheus_client import generate_latest\nprint(generate_latest().decode())\n"
    (typist.folder / "own_numbers.py").write_text(numbers, "utf-8")
    exported = run_python(typist.folder / "own_numbers.py")
    assert re.search(r'^arx_verifier_journal_fill{service="orders"} 0\.\d+', exported, re.MULTILINE), exported
    typist.type("docs/operations.md", "orders.invite\narx service enrol", {"orders": "payments"})
    own = kids(typist.json("arx service show orders"))[0]
    typist.type("docs/operations.md", "arx service replace-key orders --stolen", {"OLD_KID": own})


@pytest.mark.nightly
@pytest.mark.servers
def test_services_of_a_file_are_applied_as_the_page_shows(tmp_path: Path) -> None:
    """
    docs/service.md: the file is written, the plan is as it is shown, and the second invitation is joined with.
    """
    with live_realm(tmp_path / ".arx", free_ports(1)[0]) as live:
        typist = Typist(tmp_path, live)
        (tmp_path / "services.toml").write_text(typist.block("docs/service.md", "[service.payments]"), "utf-8")
        shown = typist.block("docs/service.md", "$ arx apply")
        command, _, output = shown.removeprefix("$ ").partition("\n")
        done = run_line(command, tmp_path)
        assert (done.returncode, matches(output, done.stdout)) == (0, True), done.stdout
        typist.line("arx service enrol --invitation invitations/payments.invite --out payments.json")
        assert json.loads((tmp_path / "payments.json").read_text())["journal"] == "/var/lib/payments/journal"
        typist.line(f"{command} --check".replace("--yes", ""))


@pytest.mark.slow
@pytest.mark.servers
def test_keys_and_kills_are_typed_as_the_pages_show(typist: Typist) -> None:
    """
    The pages of operations, identity, store and audit: keys, a person's kill, users of a store, a witness.
    """
    typist.type("docs/operations.md", "arx key rotate", {"arx key retire k1": "! arx key retire k1"})
    typist.type("docs/operations.md", "arx key reseal", {"arx key reseal --passphrase-file old": "true"})
    typist.type("docs/identity.md", "arx kill subject:", {"--yes": "--yes || test $? = 3"})  # confirmed late
    typist.type("docs/store.md", "arx redis acl", {"--password-file -": "--password-file - <<<secret"})
    typist.line("arx audit key > log.key && arx witness init w --name witness.example/w1")
    shown = typist.block("docs/audit.md", "arx witness init").splitlines()
    assert shown[0].split("  ")[0] == "arx witness init witness --name witness.example/w1"
    assert shown[1].startswith("arx witness serve witness --log log.key")
    with child(
        [sys.executable, "-m", "arx_caps.cli", "witness", "serve", "w", "--log", "log.key", "--listen", "127.0.0.1:0"],
        cwd=typist.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as witness:
        assert witness.stdout is not None
        line = witness.stdout.readline()
        witness.terminate()
    assert "127.0.0.1:" in line, line
