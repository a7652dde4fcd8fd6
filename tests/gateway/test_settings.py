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
        ("", "1: expected a table such as [upstream.github] or"),
        ("decider = 3\n", "1: decider: expected a table, got a number, a"),
        (DECIDER.replace("forward-auth", "ask"), "2: decider.shop.kind: expected one of forward-auth,"),
        (DECIDER + "bodies = true\n", "6: decider.shop.bodies: expected a kind of ext-authz, and"),
        (DECIDER + "limits = {}\n", "6: decider.shop.limits: invalid limits: expected `rules`, `net`,"),
        (
            ORDERS + URL + 'limits = { hours = ["8-18"] }\n',
            "4: upstream.orders.limits: invalid limits: hours: expected",
        ),
        (ORDERS + URL + 'server_requests = ["tools"]\n', "4: upstream.orders.server_requests[1]: expected one of"),
        (
            ORDERS + URL + 'server_requests = ["roots"]\nroutes = { "GET /o" = "orders.get" }\n',
            "4: upstream.orders.server_requests: is of an MCP server alone",
        ),
        (DECIDER + 'backend = "shop"\n', "1: decider.shop: ext-mcp has neither `openapi`, `routes`"),
        (DECIDER.replace("forward-auth", "ext-mcp"), "1: decider.shop.backend: expected the name of the MCP"),
        (
            DECIDER.replace("forward-auth", "ext-mcp") + 'backend = "shop"\n',
            "1: decider.shop: ext-mcp has neither `openapi`, `routes`",
        ),
        (DECIDER + 'path_prefix = "/arx"\n', "6: decider.shop.path_prefix: is of ext-authz-http alone,"),
        (DECIDER.replace("routes", "route"), "5: decider.shop.route: unknown key; did you mean `routes`?"),
        (DECIDER.partition("routes")[0], "1: decider.shop: expected one of `openapi` and `routes`,"),
        (
            DECIDER.replace("127.0.0.1:8092", "0.0.0.0:8092"),
            "3: decider.shop.listen: the gateway serves plain HTTP and",
        ),
        (DECIDER.replace("8092", "8090"), "3: decider.shop.listen: expected a port of its own, got"),
        (DECIDER.replace("8092", "0"), "3: decider.shop.listen: expected a port, got 0"),
        (DECIDER.replace("8092", "²"), "3: decider.shop.listen: invalid address to listen at:"),
        (DECIDER.replace("8092", "9" * 5000), "3: decider.shop.listen: invalid address to listen at:"),
        (DECIDER + 'url = "https://a"\n', "1: decider.shop: expected `url`, `peps`, `actions` and"),
        (AUTHZEN + 'body_header = "x"\n', "1: decider.pdp: expected no `body_header`, and at most one"),
        (AUTHZEN.replace("env:", "s3cret"), "6: decider.pdp.peps.pep: expected env:NAME, file:PATH or"),
        (AUTHZEN.replace('pep = "env:A"', ""), "6: decider.pdp.peps: expected one, as env:NAME, file:PATH"),
        (AUTHZEN.replace("https://a", "http://a"), "5: decider.pdp.url: expected https://, a host and perhaps a"),
        (AUTHZEN.replace("https://a", "https://a/"), "5: decider.pdp.url: expected https://, a host and perhaps a"),
        (AUTHZEN.replace("https://a", "https://a?x"), "5: decider.pdp.url: expected https://, a host and perhaps a"),
        (AUTHZEN.replace("read order", "read"), "7: decider.pdp.actions.read: expected an action and a type"),
        (AUTHZEN.replace("orders.get", "shop.get"), "7: decider.pdp.actions.read order.tool: expected a tool"),
        (AUTHZEN.replace("resource.id", "resource"), "7: decider.pdp.actions.read order.args.order: expected"),
        (AUTHZEN.replace("resource.id", "subject.id"), "7: decider.pdp.actions.read order.args.order: expected"),
        (
            AUTHZEN.replace("resource.id", "context.credential"),
            "7: decider.pdp.actions.read order.args.order: expected",
        ),
        (DECIDER + 'hosts = ["10.0.0.1/8"]\n', "6: decider.shop.hosts[1]: expected a network such as"),
        (DECIDER + "hosts = []\n", "6: decider.shop.hosts: expected a list with at least one"),
        (DECIDER + 'body_header = "X Body"\n', "6: decider.shop.body_header: expected the name of a header"),
        (DECIDER + 'resource = "https://a/?x"\n', "6: decider.shop.resource: expected the URL of clients, got"),
        (
            DECIDER + 'resource = "https://a/"\nspends = false\n',
            "6: decider.shop.resource: needs `spends = true`, because no",
        ),
        (DECIDER + ORDERS.replace("orders", "shop", 1) + URL, "1: decider.shop: expected a name that no upstream has"),
        (DECIDER + ORDERS + URL, "1: decider.shop: expected an audience of its own, got that"),
        ("[upstream", "1: not TOML: Expected ']' at the end of a table declaration"),
        (
            "a = " + "1" * 5000,
            "1: a: expected an integer that a computer word can hold,",
        ),  # more digits than Python converts
        ("a = " + "[" * 5000, "1: expected at most 64 levels of nesting, got more"),  # deeper than it reads
        ("[upstreams.orders]\n", "1: upstreams: unknown key; did you mean `upstream`?"),
        (
            ORDERS + URL + '[gateway]\nlisten = ["0.0.0.0:1"]\n',
            "5: gateway.listen[1]: the gateway serves plain HTTP and",
        ),
        (ORDERS, "1: upstream.orders: expected one of `url` and `command`,"),
        (ORDERS + URL + 'command = ["x"]\n', "1: upstream.orders: expected one of `url` and `command`,"),
        (
            ORDERS + 'command = ["x"]\nisolation = "box"\n',
            "4: upstream.orders.isolation: expected one of auto,",
        ),
        (
            ORDERS + URL + 'isolation = "none"\n',
            "1: upstream.orders: expected `isolation`, `user`, `home`,",
        ),
        (
            ORDERS + URL + 'writes = ["/data"]\n',
            "1: upstream.orders: expected `isolation`, `user`, `home`,",
        ),
        (
            ORDERS + 'command = ["x"]\nisolation = "none"\nreads = ["/"]\n',
            "4: upstream.orders.isolation: expected `user`, `home`,",
        ),
        (
            ORDERS + URL + "retries = 3\n",
            "4: upstream.orders.retries: unknown key; known here:",
        ),
        (
            ORDERS + URL + "routes = { 'GET x' = 'orders.x' }\n",
            "4: upstream.orders.routes.GET x: 'GET x' is not a route:",
        ),
        (ORDERS + 'url = "ftp://a"\n', "3: upstream.orders.url: expected http:// or https:// and a"),
        (ORDERS + 'url = "http://user:pass@a/"\n', "3: upstream.orders.url: expected no user, query or"),
        (ORDERS + URL + 'timeout = "soon"\n', "4: upstream.orders.timeout: a duration is a whole number"),
        (ORDERS + URL + 'resource = "https://a/other"\n', "4: upstream.orders.resource: expected the URL of clients,"),
        (
            ORDERS + URL + 'resource = "https://a/orders?x"\n',
            "4: upstream.orders.resource: expected the URL of clients,",
        ),
        (ORDERS + URL + 'resource = "/orders"\n', "4: upstream.orders.resource: expected the URL of clients,"),
        (ORDERS + URL + "dpop = true\n", "4: upstream.orders.dpop: needs a `resource`, without which"),
        (ORDERS + URL + 'rate = { agent = "60" }\n', "4: upstream.orders.rate.agent: expected a number of calls"),
        (ORDERS + URL + 'credential = { from = "s3cret" }\n', "4: upstream.orders.credential.from: expected env:NAME,"),
        (
            ORDERS + URL + OAUTH.format("http://login.example/token"),
            "4: upstream.orders.credential.oauth.token_url: expected",
        ),
        (
            ORDERS + URL + OAUTH.format("https://s3cret@login.example/"),
            "4: upstream.orders.credential.oauth.token_url: expected",
        ),
        (
            ORDERS.replace("[upstream.orders]", "[upstream.metrics]") + URL,
            "1: upstream.metrics: expected a name such as github, of",
        ),
        (
            ORDERS + URL + ORDERS.replace("[upstream.orders]", "[upstream.more]") + URL,
            "4: upstream.more: expected an audience of its own, got that",
        ),
        (
            ORDERS + URL + '[upstream.more]\naudience = "more"\nservice = "./orders.json"\n' + URL,
            "4: upstream.more: expected an audience of its own, got that",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    """And no secret in it is shown."""
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as refused:
        read_settings(file)
    # The line, the path of the key, and how the message begins.
    assert str(refused.value).startswith(f"{file}:{place}")
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
    tmp_path.chmod(0o755)  # in a folder of one user alone, the file's own mode does not matter
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
