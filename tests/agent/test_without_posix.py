# SPDX-License-Identifier: Apache-2.0
"""Agents, holders and operators need nothing that Windows lacks, and what does need it names that.

These processes run here without the names of ``posix_names``; no test runs on Windows.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from tests.agent.live import LiveMint, live_mint
from tests.connect.conftest import World
from tests.mint.harness import make_realm
from tests.servers import free_ports

HIDE = Path(__file__).with_name("posix_names.py").read_text(encoding="utf-8")
ARX = f"{HIDE}\nfrom arx_caps.cli.app import main\nmain()\n"
COMMANDS = Path(__file__).resolve().parents[2] / "arx_caps" / "cli" / "commands"
POSIX_ALONE = {"apply.command"}
WORK = """
from arx_caps import Agent
with Agent.from_key_file(sys.argv[1]) as agent:
    session = agent.open_session(purpose="without POSIX")
    session.save(sys.argv[2])
    with session.start_task("look", order_id="o-1") as task:
        task.save(sys.argv[3])
        child = task.delegate("acme/support/worker", tools=["orders.get"])
        print(child.encode()[:6])
"""


def run(program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_what_holders_and_operators_use_is_imported() -> None:
    """
    Agent, bridge, adapters' base, a service's verifier and every command but one; that one names the system.
    """
    modules = sorted(
        str(path.relative_to(COMMANDS).with_suffix("")).replace("/", ".")
        for path in COMMANDS.rglob("[a-z]*.py")
        if path.parent == COMMANDS or path.stem == "command"
    )
    assert set(modules) >= POSIX_ALONE
    names = [f"arx_caps.cli.commands.{name}" for name in modules if name not in POSIX_ALONE]
    names += ["arx_caps.connect.stdio", "arx_caps.memory", "arx_verifier.service", "arx_verifier.testing"]
    program = f"{HIDE}\nfrom arx_caps import Agent, Session, Task\n"
    program += f"import importlib\nlist(map(importlib.import_module, {names}))"
    done = run(program)
    assert done.returncode == 0, done.stderr


NEEDS_POSIX = {
    "apply": ("FILE",),
    "ship": ("FILE",),
    "gateway": ("FILE",),
    "mint serve": ("--realm-dir", "REALM"),
    "up": ("--realm-dir", "REALM"),
    "relay": ("--listen", "127.0.0.1:9", "--store", "redis://127.0.0.1:9/0", "--realm", "acme"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", NEEDS_POSIX)
def test_what_needs_posix_names_it(command: str, tmp_path: Path) -> None:
    """
    A command ends with the systems that it runs on, and a journal with the same error.
    """
    file = tmp_path / "file"
    file.write_text("{}")
    make_realm(tmp_path / "realm")
    places = {"FILE": file, "REALM": tmp_path / "realm"}
    words = [places.get(word, word) for word in NEEDS_POSIX[command]]
    done = run(ARX, *command.split(), *words, "--json")
    code, part = ("settings", "a relay") if command == "relay" else ("not_installed", "this command")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (2, code), done.stderr
    assert f"{part} needs a POSIX system: expected Linux or macOS" in done.stderr


def test_a_journal_names_the_systems_that_it_runs_on(tmp_path: Path) -> None:
    """
    It is refused before a file is made.
    """
    folder = tmp_path / "journal"
    program = f"{HIDE}\nfrom arx_verifier.journal.writer import Journal\nJournal({str(folder)!r}, 'v1', 'orders')"
    done = run(program)
    assert "SettingsError: a journal needs a POSIX system: expected Linux or macOS" in done.stderr
    assert not folder.exists()


@pytest.mark.slow
def test_the_bridge_signs(tmp_path: Path) -> None:
    """
    ``arx connect`` passes a client's calls on, allowed and refused.
    """
    world = World(tmp_path)
    with world.served(), world.bridged(program=("-c", ARX)) as client:
        client.open()
        assert client.call(1, "get", order_id="o-7")[0] is False
        assert client.call(2, "get", order_id="p-7")[0] is True
        assert client.close() == 0


@pytest.fixture
def mint(valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[LiveMint]:
    (port,) = free_ports(1)
    with live_mint(tmp_path / "realm", store_url=valkey.url, name="without", port=port) as live:
        yield live


@pytest.mark.slow
@pytest.mark.servers
def test_an_agent_works_and_its_tokens_are_read(mint: LiveMint, tmp_path: Path) -> None:
    """
    A session, a task, a delegation and their files by the library; the task is read and delegated by ``arx token``.
    """
    task = tmp_path / "task"
    done = run(HIDE + WORK, mint.enrol("acme/support/night"), tmp_path / "session.json", task)
    assert done.returncode == 0, done.stderr
    shown = run(ARX, "token", "inspect", task, "--json")
    assert shown.returncode == 0, shown.stderr
    assert "o-1" in shown.stdout
    given = run(ARX, "token", "delegate", "acme/support/worker", "--in", task, "--out", tmp_path / "worker")
    assert given.returncode == 0, given.stderr
