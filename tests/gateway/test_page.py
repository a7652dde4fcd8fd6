# SPDX-License-Identifier: Apache-2.0
"""docs/gateway.md and docs/deciders.md: their files are read as shown, and their tables have what the settings say.

``python -m tests.gateway.test_page`` writes the tables.
"""

import contextlib
import inspect
import json
import re
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arx_caps.cli import exit_codes
from arx_caps.gateway.base.settings import (
    CredentialTerms,
    DeciderTerms,
    GatewayTerms,
    OAuthTerms,
    RateTerms,
    UpstreamTerms,
    read_settings,
)
from arx_caps.gateway.catalogue.routes import CatalogueRoutes
from arx_caps.gateway.catalogue.terms import read_catalogue, route_terms
from arx_caps.gateway.deciders.decider import identity_of
from arx_caps.isolation.choice import kind_that_works
from arx_caps.mint.policy.model import Policy
from arx_caps.settings.toml_file import fields_of
from arx_verifier import Rule
from arx_verifier.enforcement.base.routes import RouteMap
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from tests.agent.live import now_ms
from tests.cli.helpers import arx, service_file
from tests.house.pages import ROOT, blocks, matches
from tests.house.reader import environment, run_line, run_python
from tests.servers import child, free_ports

FILE = ROOT / "docs" / "gateway.md"
DECIDERS = ROOT / "docs" / "deciders.md"
PROXIES = ("Caddyfile", "agentgateway.yaml", "envoy.yaml", "haproxy.cfg", "nginx.conf", "traefik.yml")
EXAMPLES = [ROOT / "deploy" / name for name in PROXIES]
TABLES = {
    "gateway": GatewayTerms,
    "upstream": UpstreamTerms,
    "credential": CredentialTerms,
    "oauth": OAuthTerms,
    "rate": RateTerms,
}
PAGES: dict[Path, dict[str, type[msgspec.Struct]]] = {FILE: TABLES, DECIDERS: {"decider": DeciderTerms}}


def described(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The text of each attribute, out of a docstring of Google's form."""
    _, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "`") for name, text in found}


def default_of(field: msgspec.inspect.Field, marks: dict[str, Any]) -> str:
    """A default as TOML has it."""
    if field.required:
        return "needed"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # type: ignore[misc]
    value = marks.get("show", lambda value: value)(value)
    if not value or isinstance(value, msgspec.Struct):
        return "false" if value is False else "none"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{each}"' for each in value) + "]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def table(kind: type[msgspec.Struct]) -> str:
    """The table of the page."""
    texts = described(kind)
    fields = {field.name: (field, marks) for field, _, marks in fields_of(kind)}
    assert texts.keys() == fields.keys()
    rows = [
        f"| `{field.encode_name}` | {default_of(field, marks)} | {texts[name]} |"
        for name, (field, marks) in fields.items()
    ]
    return "\n".join(["| member | default | meaning |", "| --- | --- | --- |", *rows])


def with_tables(page: str, tables: dict[str, type[msgspec.Struct]]) -> str:
    """The page with its tables written anew."""
    for name, kind in tables.items():
        pattern = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
        new = f"\\1\n{table(kind)}\n\n\\2".replace("\\", "\\\\").replace("\\\\1", "\\1").replace("\\\\2", "\\2")
        page, count = pattern.subn(new, page)
        assert count == 1
    return page


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_the_tables_are_those_of_the_settings(file: Path) -> None:
    """Each member with its default and the text of its docstring."""
    page = file.read_text("utf-8")
    assert page == with_tables(page, PAGES[file])


def shown() -> list[dict[str, Any]]:
    return [tomllib.loads(block.text) for block in blocks(FILE.read_text("utf-8")) if block.language == "toml"]


def test_the_file_is_read_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its routes make a table, and each audience has the origin at which the gateway listens for it."""
    texts = [block.text for block in blocks(FILE.read_text("utf-8")) if block.language == "toml"]
    text, policy_text = texts[:2]
    (tmp_path / "gateway.toml").write_text(text)
    settings = read_settings(tmp_path / "gateway.toml")
    RouteMap(settings.upstreams["billing"].routes)
    policy, credential = shown()[1], shown()[-1]
    assert msgspec.convert(credential["upstream"]["github"]["credential"], CredentialTerms).oauth is not None
    audiences = {name: each["origins"] for name, each in policy["audience"].items()}
    assert audiences.keys() == {terms.audience for terms in settings.upstreams.values()}
    granted = Policy.parse(policy_text, "policy.toml").grant("invoice", "acme/desk/a", {"invoice_id": "i-1"})
    tools = {rule.tool for rules in granted.rules.values() for rule in rules}
    assert tools - {"files.read_text_file"} < set(settings.upstreams["billing"].routes.values())
    assert [f"http://{place}" for place in settings.gateway.listen] == [each for [each] in audiences.values()]


def test_catalogues_and_bodies_are_read_as_shown(tmp_path: Path) -> None:
    """Tables with other bodies and with each kind of catalogue, a catalogue of one's own, and rules for git."""
    for text in [block.text for block in blocks(FILE.read_text("utf-8")) if block.language == "toml"][2:4]:
        (tmp_path / "gateway.toml").write_text(text, "utf-8")
        for name, terms in read_settings(tmp_path / "gateway.toml").upstreams.items():
            catalogue = terms.catalogue and read_catalogue(terms.catalogue, tmp_path, name)
            routes = catalogue.routes if catalogue else route_terms(terms.routes, terms.bodies)
            assert CatalogueRoutes(routes).has_streams is (name in ("git", "billing"))
    (tmp_path / "own.toml").write_text(
        [block.text for block in blocks(FILE.read_text("utf-8")) if block.language == "toml"][4], "utf-8"
    )
    own = CatalogueRoutes(read_catalogue("own.toml", tmp_path, "tickets").routes)
    request = {"method": "GET", "path": "/app/7", "raw_path": b"/app/7", "query_string": b"", "headers": []}
    assert own(request, b"") == ("tickets.get", {"ticket": "app-7"})
    assert own(request | {"path": "/export/a.csv"}, b"") == ("tickets.export", {"name": "a"})
    fetch, push = [Rule(**rule) for rule in shown()[5]["allow"]]
    caller = UnsafeTestRealm("git").caller(fetch, push)
    assert caller.macaroon is not None


@pytest.mark.skipif(kind_that_works() is None, reason="no isolation works on this machine")
def test_a_check_prints_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the page's file: with mistakes, without the service files, then with them and the program on the path."""
    page = blocks(FILE.read_text("utf-8"))
    checked, mistakes, missing = [block.text.partition("\n")[2] for block in page if block.language == "console"]
    (data := tmp_path / "data").mkdir()
    (program := tmp_path / "bin" / "mcp-server-filesystem").parent.mkdir()
    program.symlink_to(str(shutil.which("true")))
    text = next(block.text for block in page if block.language == "toml")
    (tmp_path / "gateway.toml").write_text(text.replace("/data", str(data)), "utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.toml").write_text(
        text.replace('url = "http:', 'url = "htps:', 1).replace("rate =", "rat =", 1), "utf-8"
    )
    ran = arx("gateway", "--check", "wrong.toml")
    assert (ran.exit_code, ran.err) == (exit_codes.USAGE, mistakes)
    variables = {"BILLING_KEY": "canary", "PATH": f"{program.parent}:/usr/bin:/bin"}
    ran = arx("gateway", "--check", "gateway.toml", env=variables)
    assert ran.exit_code == exit_codes.INCOMPLETE
    assert matches(missing, ran.out + ran.err)
    for audience in ("billing", "files"):
        file = service_file(tmp_path / f"{audience}.json", audience=audience, store="redis://127.0.0.1:1/0")
        file.write_text(json.dumps({**json.loads(file.read_text()), "journal": f"journal-{audience}"}), "utf-8")
    ran = arx("gateway", "--check", "gateway.toml", env=variables)
    assert ran.exit_code == exit_codes.OK, ran.err
    expected = checked.replace("/data", str(data)).replace("isolation bubblewrap", f"isolation {kind_that_works()}")
    assert matches(expected, ran.out)


class _Invoices(BaseHTTPRequestHandler):
    """The billing service of the page: an invoice for who has its credential."""

    def do_GET(self) -> None:
        """Answer one invoice."""
        known = self.headers["Authorization"] == "Bearer canary" and self.path == "/v1/invoices/i-1"
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Write no line to stderr."""


@contextlib.contextmanager
def _started(folder: Path, here: Callable[[str], str]) -> Iterator[None]:
    """Write the page's files beside a new realm, and start mint and gateway as the page does."""
    text, policy = [block.text for block in blocks(FILE.read_text("utf-8")) if block.language == "toml"][:2]
    (folder / "gateway.toml").write_text(here(text).replace("/data", str(folder / "data")), "utf-8")
    assert run_line(here("arx init --name acme --issuer http://127.0.0.1:8700"), folder).returncode == 0
    with (folder / ".arx" / "policy.toml").open("a", encoding="utf-8") as file:
        file.write("\n" + here(policy).replace("/data", str(folder / "data")))
    _, check, up = _block("BILLING_KEY=…").splitlines()
    assert run_line(check, folder).returncode == 0
    command = "exec " + up.partition(" ")[2]  # the variable is in the environment
    variables = environment() | {"BILLING_KEY": "canary", "PATH": f"{folder}/bin:{environment()['PATH']}"}
    options: dict[str, Any] = {"cwd": folder, "env": variables, "stderr": subprocess.STDOUT, "text": True}
    with child(["bash", "-c", command], stdout=subprocess.PIPE, **options) as process:
        lines = iter(process.stdout.readline, "")
        assert any("ready: the gateway listens at" in line for line in lines), "it has ended"
        threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()
        yield
        process.terminate()
        process.wait(60)


def _block(containing: str) -> str:
    [text] = [block.text for block in blocks(FILE.read_text("utf-8")) if containing in block.text]
    return text


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.skipif(kind_that_works() is None, reason="no isolation works on this machine")
def test_a_gateway_is_started_and_called_as_shown(tmp_path: Path) -> None:
    """Its commands and its program, beside a billing service that knows no token; and a stock client's settings."""
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), _Invoices)
    mint, billing, files = map(str, free_ports(3))
    ports = {"8700": mint, "8090": billing, "8091": files, "9010": str(upstream.server_port)}
    (tmp_path / "data").mkdir()
    (program := tmp_path / "bin" / "mcp-server-filesystem").parent.mkdir()
    program.symlink_to(str(shutil.which("true")))  # no message goes to it

    def here(text: str) -> str:
        return re.sub(r":(\d{4})\b", lambda match: f":{ports[match[1]]}", text)

    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    try:
        with _started(tmp_path, here):
            for line in _block("arx agent enrol").splitlines():
                assert run_line(line, tmp_path).returncode == 0
            (tmp_path / "call.py").write_text(here(_block("import httpx")), "utf-8")
            assert run_python(tmp_path / "call.py") == "<Response [200 OK]>\n"
            for line in _block("arx session open").splitlines():
                done = run_line(here(line), tmp_path)
                assert done.returncode == 0, done.stdout
            assert f"http://127.0.0.1:{files}/files" in done.stdout
    finally:
        upstream.shutdown()
        upstream.server_close()


def test_a_decider_is_read_as_shown(tmp_path: Path) -> None:
    """And each example for a proxy has the address at which it listens."""
    text, _ = [block.text for block in blocks(DECIDERS.read_text("utf-8")) if block.language == "toml"]
    (tmp_path / "gateway.toml").write_text(text)
    decider = read_settings(tmp_path / "gateway.toml").deciders["shop"]
    RouteMap(decider.routes)
    for example in EXAMPLES:
        assert decider.listen in example.read_text("utf-8"), example.name


def test_each_example_replaces_the_headers_of_the_decider() -> None:
    """All that name them name all; haproxy removes them by their beginning."""
    realm = UnsafeTestRealm("orders")
    grant = realm.verifier.verify(
        realm.caller(Rule(tool="*")).token("orders.get"), AccessRequest("orders.get", {}, now_ms())
    )
    names = [name.decode() for name, _ in identity_of(grant)]
    assert len(names) == 7
    for example in EXAMPLES:
        text = example.read_text("utf-8").lower()
        assert [name for name in names if name not in text] in ([], names), example.name


if __name__ == "__main__":
    for written, tables in PAGES.items():
        written.write_text(with_tables(written.read_text("utf-8"), tables), "utf-8")
