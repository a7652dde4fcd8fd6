# SPDX-License-Identifier: Apache-2.0
"""The gateway's file: what it does not understand is an error that names its place."""

from pathlib import Path

import pytest

from arx_caps.gateway.base.settings import read_settings
from arx_caps.gateway.mcp.stdio import StdioUpstream
from arx_caps.gateway.upstream.forwarder import Forwarder
from arx_verifier.errors import SettingsError
from tests.cli.helpers import arx

ORDERS = '[upstream.orders]\naudience = "orders"\n'
OAUTH = 'credential = {{ from = "env:KEY", oauth = {{ token_url = "{}", client_id = "arx" }} }}\n'
AUTHZEN = (
    '[decider.pdp]\nkind = "authzen"\nlisten = "127.0.0.1:8093"\naudience = "orders"\nurl = "https://a"\n'
    'peps = { pep = "env:A" }\n'
    'actions = { "read order" = { tool = "orders.get", args = { order = "resource.id" } } }\n'
)
DECIDER = (
    '[decider.shop]\nkind = "forward-auth"\nlisten = "127.0.0.1:8092"\naudience = "orders"\n'
    'routes = { "GET /orders" = "orders.list" }\n'
)
URL = 'url = "http://127.0.0.1:9/mcp"\n'


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "has no upstream and no decider"),
        ("decider = 3\n", "decider: expected a table"),
        (DECIDER.replace("forward-auth", "ask"), "decider.shop: kind: expected one of forward-auth"),
        (DECIDER + "bodies = true\n", "decider.shop: bodies: expected a kind of ext-authz"),
        (DECIDER + 'backend = "shop"\n', "decider.shop: backend: expected"),
        (DECIDER.replace("forward-auth", "ext-mcp"), "decider.shop: backend: expected"),
        (DECIDER.replace("forward-auth", "ext-mcp") + 'backend = "shop"\n', "decider.shop: ext-mcp has neither"),
        (DECIDER + 'path_prefix = "/arx"\n', "decider.shop: path_prefix: expected"),
        (DECIDER.replace("routes", "route"), "decider.shop: Object contains unknown field `route`"),
        (DECIDER.partition("routes")[0], "decider.shop: expected one of `openapi` and `routes`"),
        (DECIDER.replace("127.0.0.1:8092", "0.0.0.0:8092"), "decider.shop: listen: the gateway serves plain HTTP"),
        (DECIDER.replace("8092", "8090"), "decider.shop: listen: expected a port of its own, got that of gateway"),
        (DECIDER.replace("8092", "0"), "decider.shop: listen: expected a port"),
        (DECIDER.replace("8092", "²"), "decider.shop: listen: invalid address to listen at: expected HOST:PORT"),
        (DECIDER.replace("8092", "9" * 5000), "decider.shop: listen: invalid address to listen at: expected HOST:PORT"),
        (DECIDER + 'url = "https://a"\n', "decider.shop: expected `url`, `peps`"),
        (DECIDER + "asserted = true\n", "decider.shop: expected `url`, `peps`, `actions`, `subjects` and `asserted`"),
        (AUTHZEN + 'body_header = "x"\n', "decider.pdp: expected no `body_header`"),
        (AUTHZEN.replace("env:", "s3cret"), "decider.pdp: peps: expected one, as env:NAME"),
        (AUTHZEN.replace('pep = "env:A"', ""), "decider.pdp: peps: expected one"),
        (AUTHZEN.replace("https://a", "http://a"), "decider.pdp: url: expected https://"),
        (AUTHZEN.replace("https://a", "https://a/"), "decider.pdp: url: expected https://"),
        (AUTHZEN.replace("https://a", "https://a?x"), "decider.pdp: url: expected https://"),
        (AUTHZEN.replace("read order", "read"), "decider.pdp: actions: expected an action and a type"),
        (AUTHZEN.replace("orders.get", "shop.get"), "decider.pdp: actions: read order: expected a tool that begins"),
        (AUTHZEN.replace("resource.id", "resource"), "decider.pdp: actions: read order: expected resource.id, context"),
        (AUTHZEN.replace("resource.id", "subject.id"), "decider.pdp: actions: read order: expected resource.id"),
        (AUTHZEN.replace("resource.id", "context.credential"), "decider.pdp: actions: read order: expected"),
        (DECIDER + 'hosts = ["10.0.0.1/8"]\n', "decider.shop: hosts: expected a network"),
        (DECIDER + "hosts = []\n", "decider.shop: hosts: expected the network"),
        (DECIDER + 'body_header = "X Body"\n', "decider.shop: body_header: expected"),
        (DECIDER + 'resource = "https://a/?x"\n', "decider.shop: resource: expected"),
        (DECIDER + 'resource = "https://a/"\nspends = false\n', "decider.shop: resource: needs `spends = true`"),
        (DECIDER + ORDERS.replace("orders", "shop", 1) + URL, "decider.shop: expected a name"),
        (DECIDER + ORDERS + URL, "decider.shop: expected an audience of its own, got that of orders"),
        ("[upstream", "is not TOML"),
        ("a = " + "1" * 5000, "is not TOML"),  # more digits than Python converts
        ("a = " + "[" * 5000, "is not TOML"),  # deeper than it reads
        ("[upstreams.orders]\n", "upstreams: expected"),
        (ORDERS + URL + '[gateway]\nlisten = ["0.0.0.0:1"]\n', "would listen at 0.0.0.0"),
        (ORDERS, "upstream.orders: expected one of `url` and `command`"),
        (ORDERS + URL + 'command = ["x"]\n', "expected one of `url` and `command`"),
        (
            ORDERS + 'command = ["x"]\nisolation = "box"\n',
            "isolation: expected one of auto, bubblewrap, systemd, user, n",
        ),
        (
            ORDERS + URL + 'isolation = "none"\n',
            "expected `isolation`, `user`, `home`, `reads` and `writes` only with `c",
        ),
        (
            ORDERS + URL + 'writes = ["/data"]\n',
            "expected `isolation`, `user`, `home`, `reads` and `writes` only with `c",
        ),
        (ORDERS + 'command = ["x"]\nisolation = "none"\nreads = ["/"]\n', "only with an isolation, got isolation = "),
        (
            ORDERS + URL + "retries = 3\n",
            "unknown field `retries`; expected some of audience, ca, command, costs, cred",
        ),
        (ORDERS + URL + "routes = { 'GET x' = 'orders.x' }\n", "upstream.orders: routes: 'GET x' is not a route"),
        (ORDERS + 'url = "ftp://a"\n', "url: expected"),
        (ORDERS + 'url = "http://user:pass@a/"\n', "url: expected no user"),
        (ORDERS + URL + 'timeout = "soon"\n', "timeout"),
        (ORDERS + URL + 'resource = "https://a/other"\n', "resource: expected"),
        (ORDERS + URL + 'resource = "https://a/orders?x"\n', "resource: expected"),
        (ORDERS + URL + 'resource = "/orders"\n', "resource: expected"),
        (ORDERS + URL + "dpop = true\n", "dpop: needs a `resource`"),
        (ORDERS + URL + 'rate = { agent = "60" }\n', "rate: expected"),
        (ORDERS + URL + 'credential = { from = "s3cret" }\n', "credential: `from` expects"),
        (ORDERS + URL + OAUTH.format("http://login.example/token"), "token_url: expected https://"),
        (ORDERS + URL + OAUTH.format("https://s3cret@login.example/"), "token_url: expected https://"),
        (ORDERS.replace("[upstream.orders]", "[upstream.metrics]") + URL, "expected a name"),
        (ORDERS + URL + ORDERS.replace("[upstream.orders]", "[upstream.more]") + URL, "upstream.more: expected an aud"),
        (ORDERS + URL + '[upstream.more]\naudience = "more"\nservice = "./orders.json"\n' + URL, "that of orders"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    """And no secret in it is shown."""
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as refused:
        read_settings(file)
    assert place in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        (
            URL + 'credential = { from = "env:NO_KEY" }\n',
            "credential: env:NO_KEY: expected a secret, got none; set NO_KEY",
        ),
        (
            URL + 'credential = { from = "file:no.key" }\n',
            "credential: file:no.key: {}/no.key: No such file or directory",
        ),
        (
            URL + 'credential = { from = "file:open.key" }\n',
            "credential: file:open.key: {}/open.key holds a secret and",
        ),
        (
            URL + OAUTH.format("https://login.example/").replace("KEY", "NO_KEY"),
            "credential: env:NO_KEY: expected a secret",
        ),
        (
            'command = ["sh"]\nenv = { A = "env:NO_KEY" }\n',
            "env: A: env:NO_KEY: expected a secret, got none; set NO_KEY",
        ),
        ('command = ["no-such-server", "s3cret"]\n', "command: no-such-server: expected a program, found none"),
    ],
)
def test_what_an_upstream_lacks_is_an_error_with_its_place(tmp_path: Path, terms: str, error: str) -> None:
    """At the start, and not at the first call."""
    (tmp_path / "open.key").write_text("s3cret")
    (tmp_path / "open.key").chmod(0o644)
    (tmp_path / "gateway.toml").write_text(ORDERS + terms)
    settings = read_settings(tmp_path / "gateway.toml")
    kind = StdioUpstream if "command" in terms else Forwarder
    with pytest.raises(SettingsError) as refused:
        kind("orders", settings.upstreams["orders"], tmp_path)
    assert str(refused.value).startswith(f"upstream.orders: {error.format(tmp_path)}")
    assert "s3cret" not in str(refused.value)


def test_a_file_is_checked_before_its_services_are_enrolled(tmp_path: Path) -> None:
    """
    What a service file is missing for is named; a mistake elsewhere in the file is found all the same.
    """
    file = tmp_path / "gateway.toml"
    decider = DECIDER.replace('"orders"', '"shop"')
    file.write_text(ORDERS + URL + decider, "utf-8")
    ran = arx("gateway", "--check", file, "--json")
    assert ran.exit_code == 3
    assert ran.json["missing"] == [
        {"name": name, "service": str(tmp_path / f"{name}.json")} for name in ("orders", "shop")
    ]
    assert "not checked: its service file" in arx("gateway", "--check", file).out
    file.write_text(ORDERS + URL + 'tool = "x"\n' + decider, "utf-8")
    assert arx("gateway", "--check", file).exit_code == 2
