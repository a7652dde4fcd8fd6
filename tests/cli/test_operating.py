# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/operations.md run against real processes, and their promises are checked."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.credentials.jose import KeyFile
from arx_caps.embedded import EmbeddedValkey
from arx_verifier.service import read_service_file
from tests.cli.test_restoring import AGENTS, DOCS, Keeper, script
from tests.house.pages import blocks
from tests.postgres import Postgres
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers
PAGE = "operations.md"
DENIED, UNAUTHENTICATED = 1, 4
# A person is asked, and says yes.
ASKED = re.compile(
    r"^(arx (?:operator remove|service (?:remove-key|replace-key)|key (?:retire|rotate-signing --stolen)) [^#\n]*)",
    re.MULTILINE,
)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    someone = Keeper(tmp_path)
    yield someone
    someone.stop()


def lines(text: str) -> list[str]:
    """The lines of a script, as an operator types them who confirms each question."""
    return ASKED.sub(r"\1 --yes ", text).splitlines()


def kid_in(keeper: Keeper, name: str) -> str:
    return KeyFile.load(keeper.folder / name).key.kid


@pytest.mark.slow
def test_operators_come_and_go(keeper: Keeper) -> None:
    """
    One who may kill alone gets another role and another key, and is removed; rules of one's own; all keys lost.
    """
    keeper.up()
    keeper.run(f"arx agent enrol {AGENTS}/triage --key-out triage.key")
    *first, last = lines(script(PAGE, "arx operator enrol night-watch"))
    for line in first:
        keeper.run(line.replace("OLD_KID", kid_in(keeper, "night-watch.key") if "OLD_KID" in line else ""))
    keeper.run("arx whoami --operator-key night-watch.key", wanted=UNAUTHENTICATED)
    assert "responder" in keeper.run("arx operator show night-watch")
    keeper.run("arx agent list --operator-key next.key")
    keeper.run(last)
    keeper.run("arx whoami --operator-key next.key", wanted=UNAUTHENTICATED)

    (rules,) = [block.text for block in blocks((DOCS / PAGE).read_text("utf-8")) if block.language == "json"]
    (keeper.folder / "rules.json").write_text(rules)
    keeper.run("arx operator enrol desk --rules rules.json --key-out desk.key")
    keeper.run(f"arx agent show {AGENTS}/triage --operator-key desk.key")
    keeper.run("arx agent list --operator-key desk.key", wanted=DENIED)
    keeper.run(f"arx kill agent:{AGENTS}/triage --reason x --yes --operator-key desk.key", wanted=DENIED)

    (keeper.folder / ".arx/operator.key.json").unlink(missing_ok=True)
    keeper.run(script(PAGE, "arx operator recover"))
    keeper.run("arx agent list --operator-key root.key")
    until(lambda: "operator.recovered" in keeper.run("arx audit trail --reason event --operator-key root.key"))


@pytest.mark.nightly
def test_keys_change_as_the_page_says(keeper: Keeper) -> None:
    """
    A service enrols and its file is kept fresh; a root key is rotated and not retired before its time; a stolen service
    key is replaced; a stolen root key ends all.
    """
    keeper.up()
    for line in lines(script(PAGE, "arx service invite orders --out orders.invite\narx service enrol")):
        keeper.run(line)
    refresh = "arx ship orders.json --once"  # a running service does so by itself
    keeper.run(refresh)
    had = set(read_service_file(keeper.folder / "orders.json").keys)

    rotate, listed, retire = lines(script(PAGE, "arx key rotate"))
    keeper.run(rotate)
    assert "k2" in keeper.run(listed)
    assert "conflict" in keeper.run(retire + "--json", wanted=DENIED)

    (keeper.folder / "orders.invite").unlink()
    for line in lines(script(PAGE, "arx service remove-key")):
        keeper.run(line.replace("OLD_KID", kid_in(keeper, "orders.key") if "OLD_KID" in line else ""))
    keeper.run(refresh, wanted=DENIED)
    keeper.run("arx service enrol --invitation orders.invite --out new.json")
    assert not had & set(read_service_file(keeper.folder / "new.json").keys)

    keeper.run(f"arx agent enrol {AGENTS}/triage --key-out triage.key")
    keeper.run("arx session open --key triage.key --out session")
    page = (DOCS / PAGE).read_text("utf-8")
    (stolen,) = re.findall(r"\*\*A root key was stolen\.\*\*\s`([^`]*)`, then\s`([^`]*)`", page)
    for line in lines("\n".join(stolen)):
        keeper.run(line)
    refused = keeper.run("arx task start lookup --param order_id=o-1 --session session --json", wanted=UNAUTHENTICATED)
    assert "unknown_key" in refused
    keeper.run("arx session open --key triage.key --out another")


@pytest.mark.nightly
def test_a_realm_is_sealed_anew(keeper: Keeper) -> None:
    """
    With another passphrase, then with a key file: each time what opened it before opens it no more.
    """
    for name in ("old", "new"):
        (keeper.folder / name).write_text(f"{name} and long enough\n")
    shutil.rmtree(keeper.folder / ".arx")
    keeper.run(f"arx init --name acme --passphrase-file old --listen 127.0.0.1:{free_ports(1)[0]}")
    anew, to_a_file = lines(script(PAGE, "arx key reseal"))
    keeper.run(anew)
    keeper.run(f"{to_a_file} --passphrase-file old", wanted=2)
    keeper.run(f"{to_a_file} --passphrase-file new")
    assert not (keeper.folder / ".arx/keys/root.key").stat().st_mode & 0o077
    keeper.up()


@pytest.mark.nightly
def test_two_mints_from_copies(keeper: Keeper, postgres: Postgres, valkey: EmbeddedValkey, realm_name: str) -> None:
    """
    Each host has copies of three things, and what one mint did the other knows; with both stopped, nothing to migrate.
    """
    database, ports = postgres.database(), free_ports(2)
    begin = script(PAGE, "arx init --name acme").replace("\\\n", "").splitlines()[0]
    here = begin.replace("--name acme", f"--name {realm_name}").replace(
        "https://mint.example", f"http://127.0.0.1:{ports[0]}"
    )
    here = here.replace("rediss://redis.example/0", valkey.url).replace("postgresql://arx@db.example/arx", database)
    shutil.rmtree(keeper.folder / ".arx")
    keeper.run(here)
    policy = keeper.folder / ".arx/policy.toml"  # the page's realm has the name of its agents
    policy.write_text(policy.read_text().replace(f'"{realm_name}/', '"acme/'))
    copy = keeper.folder / "other/.arx"
    copy.mkdir(0o700, parents=True)
    for name in ("realm.toml", "policy.toml"):
        shutil.copy2(keeper.folder / ".arx" / name, copy)
    shutil.copytree(keeper.folder / ".arx/keys", copy / "keys")
    serve = script(PAGE, "arx init --name acme").splitlines()[-1].partition("#")[0].strip()
    keeper.console(f"$ {serve} --port {ports[0]} &\n")
    keeper.console(f"$ {serve} --realm-dir other/.arx --port {ports[1]} &\n")
    second = f"http://127.0.0.1:{ports[1]}"
    until(lambda: '"ready":true' in keeper.run(f"curl -s {second}/readyz"))
    keeper.run(f"arx agent enrol {AGENTS}/triage --key-out triage.key")
    keeper.run("arx session open --key triage.key --out session")
    # At the second one, as the proxy would ask it, under the issuer's name.
    keeper.stop()
    keeper.console(f"$ {serve} --realm-dir other/.arx --port {ports[0]} &\n")
    keeper.run("arx task start lookup --param order_id=o-1 --session session --out task")
    keeper.stop()
    keeper.run("arx mint migrate --check --realm-dir other/.arx")
    keeper.run("arx mint migrate --realm-dir other/.arx")
    postgres.drop(database)
