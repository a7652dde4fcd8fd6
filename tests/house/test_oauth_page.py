# SPDX-License-Identifier: Apache-2.0
"""docs/oauth.md: its files are read as they are shown, and its clients are registered and ask for tokens as typed."""

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.credentials.jose import SigningKey
from arx_caps.gateway.base.settings import read_settings
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.server.init_realm import init_realm, sample_policy
from arx_caps.settings.realm import Login, Realm
from tests.cli.live import AGENT, Live, live_realm
from tests.house.pages import ROOT, blocks
from tests.house.reader import run_line
from tests.servers import free_ports

PAGE = blocks((ROOT / "docs" / "oauth.md").read_text("utf-8"))
WORKER = "acme/support/worker"


def block(containing: str) -> str:
    """Return the one block of the page that contains a text."""
    (text,) = [block.text for block in PAGE if containing in block.text]
    return text


def test_an_upstream_with_a_resource_is_read(tmp_path: Path) -> None:
    """The gateway's file: access tokens for this URL, at the upstream's name."""
    (tmp_path / "gateway.toml").write_text('[gateway]\nlisten = ["127.0.0.1:8090"]\n\n' + block("[upstream.orders]"))
    upstream = read_settings(tmp_path / "gateway.toml").tables["orders"]
    assert upstream.resource == "https://tools.example/orders"


def test_the_settings_of_a_mint_are_read(tmp_path: Path) -> None:
    """``realm.toml`` with the page's lines: a login, and clients that register or describe themselves."""
    folder = init_realm(tmp_path / "realm", name="acme", issuer="http://127.0.0.1:8700").folder
    settings = folder / "realm.toml"
    lines = "\n".join(map(block, ("login_client_id", "clients_register", "clients_hosts")))
    settings.write_text(f"{settings.read_text()}\n{lines}")
    realm = Realm.open(folder)
    written = tomllib.loads(lines)
    assert realm.login == Login(
        *(written[f"login_{name}"] for name in ("issuer", "client_id", "client_secret", "scope"))
    )
    assert realm.clients is not None
    assert (realm.clients.agent, realm.clients.register) == ("acme/support/apps", True)
    assert list(realm.clients.hosts) == ["app.example"]


def test_the_policies_are_read() -> None:
    """The page's tables in place of those of ``arx init``: people, leads alone for a refund, and an approved call."""
    first = sample_policy("acme")
    first = re.sub(r"^\[(session|task\.refund)\]\n(?:(?!\[).*\n)*", "", first, flags=re.MULTILINE)
    policy = Policy.parse(f"{first}\n{block('[issuer.corp]')}\n{block('[task.pay]')}", "policy.toml")
    assert policy.issuers["corp"].url == "https://login.example"
    assert [rule.claims for rule in policy.templates["refund"].subjects] == [{"groups": "leads"}]
    assert policy.sessions["support"].subject == "allowed"
    assert policy.templates["pay"].bearer == "allow"
    assert policy.templates["pay"].approvals


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Live]]:
    """A folder beside a running realm whose policy has the page's origin, and two agents."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    folder = tmp_path_factory.mktemp("oauth")
    with live_realm(folder / ".arx", free_ports(1)[0]) as live:
        policy = folder / ".arx" / "policy.toml"
        text = policy.read_text().replace('127.0.0.1:9001"', '127.0.0.1:9001", "https://tools.example"')
        policy.write_text(text)
        live.ok("policy", "reload")
        for path in (AGENT, WORKER):
            live.ok("agent", "enrol", path, "--key-out", folder / f"{path.rpartition('/')[2]}.key")
        key = SigningKey.generate().public.jwk
        (folder / "triage.jwks.json").write_text(json.dumps({"keys": [key]}))
        yield folder, live


def ask(folder: Path, command: str, client: str, prefix: str = "") -> str:
    """Type a request for an access token as a client, and return the token."""
    found = json.loads((folder / client).read_text())
    names = f"{prefix}ID={found['client_id']} {prefix}SECRET={found['client_secret']}\n"
    shown = command.replace("https://mint.example", found["issuer"]).replace("curl ", "curl -sS ")
    done = run_line(names + shown, folder)
    assert done.returncode == 0, done.stdout
    return str(json.loads(done.stdout)["access_token"])


@pytest.mark.slow
@pytest.mark.servers
def test_clients_are_registered_and_get_tokens_as_typed(typed: tuple[Path, Live]) -> None:
    """With a secret and with a key; an access token for one order, and a part of it for a sub-agent's client."""
    folder, live = typed
    for line in block("triage.client.json").splitlines():
        done = run_line(line, folder)
        assert done.returncode == 0, done.stdout
    assert len(live.ok("client", "list")["clients"]) == 2
    token = ask(folder, block("grant_type=client_credentials"), "triage.client.json")
    (folder / "token.jwt").write_text(token)
    live.ok("client", "add", WORKER, "--scope", "lookup", "--out", folder / "worker.client.json")
    part = ask(folder, block('"tools":["orders.get"]'), "worker.client.json", "WORKER_")
    assert part != token
    [task] = [task for task in live.ok("task", "list")["tasks"] if task["state"] == "open"]
    assert task["template"] == "lookup"


@pytest.mark.slow
@pytest.mark.servers
def test_clients_of_people_are_registered_as_typed(typed: tuple[Path, Live]) -> None:
    """One with a secret and a place to come back to, one without a secret on a person's own machine."""
    folder, live = typed
    done = run_line("set -e\n" + block("app.client.json"), folder)
    assert done.returncode == 0, done.stdout
    shown = {tuple(client["redirects"]) for client in live.ok("client", "list")["clients"]}
    assert {("https://app.example/callback",), ("http://127.0.0.1/callback",)} <= shown
