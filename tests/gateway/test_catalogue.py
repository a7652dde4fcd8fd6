# SPDX-License-Identifier: Apache-2.0
"""Catalogues: the tool and the arguments of requests to services of others; what is not listed is refused."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.gateway.base.settings import read_settings
from arx_caps.gateway.catalogue.routes import CatalogueRoutes
from arx_caps.gateway.catalogue.terms import SHIPPED, read_catalogue
from arx_caps.gateway.gateway import Gateway
from arx_verifier import Constraint, Rule
from arx_verifier.errors import SettingsError
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.asgi_server import serving
from tests.gateway.gateway_realm import GatewayRealm
from tests.gateway.git_services import catalogue_door
from tests.gateway.served_door import Recorder, open_door

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.4")]

REPO = "/repos/acme/app"


@pytest.fixture(scope="module")
def realm() -> UnsafeTestRealm:
    return UnsafeTestRealm("github")


@pytest.fixture(scope="module")
def doors(realm: UnsafeTestRealm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The door of each shipped catalogue, before a service that takes everything."""
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("doors")
        yield {name: stack.enter_context(catalogue_door(realm, folder, name, Recorder())) for name in SHIPPED}


@pytest.mark.parametrize(
    ("catalogue", "line", "body", "tool", "args"),
    [
        ("github", f"GET {REPO}/pulls?state=open&page=2", None, "pulls.list", {"repo": "acme/app"}),
        ("github", f"GET {REPO}/pulls/7", None, "pulls.get", {"repo": "acme/app", "number": 7}),
        ("github", f"PUT {REPO}/pulls/7/merge", {"sha": "a"}, "pulls.merge", {"repo": "acme/app", "number": 7}),
        (
            "github",
            f"PUT {REPO}/contents/src/main.py",
            {"message": "m", "content": "", "branch": "main"},
            "contents.put",
            {"repo": "acme/app", "path": "src/main.py", "branch": "main"},
        ),
        (
            "github",
            f"PATCH {REPO}/git/refs/heads/main",
            {"sha": "a", "force": True},
            "refs.update",
            {"repo": "acme/app", "ref": "refs/heads/main", "force": True},
        ),
        (
            "github",
            f"POST {REPO}/merges",
            {"base": "main", "head": "x"},
            "merges.create",
            {"repo": "acme/app", "base": "main", "head": "x"},
        ),
        (
            "github",
            f"POST {REPO}/issues/3/comments",
            {"body": "b"},
            "issues.comment",
            {"repo": "acme/app", "number": 3},
        ),
        (
            "anthropic",
            "POST /v1/messages?beta=true",
            {
                "model": "m",
                "max_tokens": 9,
                "messages": [],
                "tools": [{"name": "x"}, {"type": "bash_20250124"}, {"type": "web_search_20250305"}],
            },
            "messages",
            {"model": "m", "max_tokens": 9, "server_tools": Constraint(subset=("web_search_20250305",))},
        ),
        (
            "openai",
            "POST /v1/responses",
            {"model": "m", "input": "x", "tools": [{"type": "function"}, {"type": "mcp"}]},
            "responses",
            {"model": "m", "server_tools": Constraint(subset=("mcp",))},
        ),
        ("openai", "POST /v1/chat/completions", {"model": "m", "messages": []}, "chat", {"model": "m"}),
        (
            "gemini",
            "POST /v1beta/models/gemini-3:streamGenerateContent?alt=sse",
            {"contents": [], "tools": [{"functionDeclarations": []}, {"google_search": {}}]},
            "generate",
            {"model": "gemini-3", "server_tools": Constraint(subset=("google_search",))},
        ),
        ("git", "GET /acme/app.git/info/refs?service=git-upload-pack", None, "fetch", {"repo": "acme/app"}),
        ("git", "GET /acme/a/b.git/info/refs?service=git-upload-pack", None, "fetch", {"repo": "acme/a/b"}),
        ("git", "GET /acme/app/info/refs?service=git-receive-pack", None, "fetch", {"repo": "acme/app"}),
    ],
)
def test_a_request_has_the_arguments_of_its_catalogue(
    catalogue: str, line: str, body: Any, tool: str, args: dict[str, Any], realm: UnsafeTestRealm, doors: dict[str, str]
) -> None:
    """The rule that names these arguments alone allows it; without the last one, it is refused."""
    method, _, target = line.partition(" ")
    rules: Any = (
        {"tool": f"github.{tool}", "args": args},
        {"tool": f"github.{tool}", "args": dict([*args.items()][:-1])},
    )
    for rule, status in zip(rules, (200, 403), strict=True):
        caller: Any = realm.caller(Rule(**rule))
        answer = httpx.request(method, doors[catalogue] + target, json=body, auth=caller, timeout=30)
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("catalogue", "line", "body", "status"),
    [
        ("github", "POST /graphql", {"query": "mutation { createRef }"}, 403),
        ("github", "DELETE /repos/acme/app", None, 403),
        ("github", f"POST {REPO}/actions/workflows/1/dispatches", {"ref": "main"}, 403),
        ("github", f"GET {REPO}?page=1", None, 400),
        ("github", f"GET {REPO}/pulls/07", None, 400),
        ("github", f"PUT {REPO}/pulls/7/merge", {"Sha": "a"}, 400),
        ("github", f"PUT {REPO}/contents/a%2fb", {"message": "m"}, 400),
        ("anthropic", "POST /v1/messages", {"model": "m", "unknown": 1}, 400),
        ("anthropic", "POST /v1/messages", {"model": "m", "tools": [{"type": 3}]}, 400),
        ("anthropic", "POST /v1/files", {}, 403),
        ("gemini", "POST /v1beta/models/gemini-3:batchGenerateContent", {}, 400),
        ("gemini", "POST /v1beta/models/gemini-3:generateContent?key=k", {}, 400),
        ("git", "GET /acme/app/info/refs", None, 403),
        ("git", "GET /acme/app/info/refs?service=git-upload-archive", None, 403),
        ("git", "GET /acme/app/objects/info/packs", None, 403),
    ],
)
def test_what_a_catalogue_does_not_list_is_refused(
    catalogue: str, line: str, body: Any, status: int, realm: UnsafeTestRealm, doors: dict[str, str]
) -> None:
    """A route, a member, a field of the query, another spelling; also for a token that allows every tool."""
    caller: Any = realm.caller(Rule(tool="*"))
    method, _, target = line.partition(" ")
    answer = httpx.request(method, doors[catalogue] + target, json=body, auth=caller, timeout=30)
    assert answer.status_code == status, answer.text
    assert "GraphQL names no repository" in answer.text or "graphql" not in line


def test_a_binary_body_is_judged_by_its_digest(tmp_path: Path) -> None:
    """Any bytes pass as they are, and no other ones; without `opaque` they are refused."""
    realm, data = UnsafeTestRealm("orders"), bytes(range(256))
    body: Any = {"content_type": "image/png", "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": 256}
    caller: Any = realm.caller(Rule(tool="orders.put", args={"name": "a", "body": Constraint(fields=body)}))
    routes = {"PUT /files/{name}": "orders.put", "PUT /other/{name}": "orders.put"}
    behind = Recorder()
    with (
        serving(behind, log_level="critical") as port,
        open_door(
            realm, tmp_path, url=f"http://127.0.0.1:{port}", routes=routes, bodies={"PUT /files/{name}": "opaque"}
        ) as url,
    ):

        def put(place: str, content: bytes) -> int:
            kind = {"content-type": "image/png"}
            return httpx.put(f"{url}/{place}/a", content=content, headers=kind, auth=caller, timeout=30).status_code

        assert (put("files", data), put("files", data[1:]), put("other", data)) == (200, 403, 400)
    assert [body for _, body in behind.arrived] == [data]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "needs `routes`; such as"),
        ('[routes]\n"GET /o" = { tool = "a", refused = "b" }', "expected one of `tool` and `refused`"),
        ('[routes]\n"GET /o" = { tool = "a b" }', "expected a tool of"),
        ('[routes]\n"GET /o/{id}" = { tool = "a", match = { id = "(" } }', "expected a regular expression"),
        ('[routes]\n"POST /o" = { tool = "a", body = "form" }', "expected one of json, opaque, stream, git-push"),
        ('[routes]\n"POST /o" = { tool = "a", body = "git-push" }', "expected `probe` with"),
        ('[routes]\n"POST /o" = { tool = "a", body = "stream", members = ["b"] }', "expected `members` and"),
        ('[routes]\n"GET /o" = { tool = "a", body = "opaque" }', "GET and HEAD have none"),
        ('[routes]\n"GET /o/{a}" = { tool = "a" }\n"GET /o/{b}" = { tool = "b" }', "are for the same requests"),
    ],
)
def test_a_mistake_in_a_catalogue_is_named(text: str, wrong: str, tmp_path: Path) -> None:
    """Before a request comes."""
    (tmp_path / "own.toml").write_text(text, "utf-8")
    with pytest.raises(SettingsError, match=wrong):
        CatalogueRoutes(read_catalogue("own.toml", tmp_path, "own").routes)


@pytest.mark.parametrize(
    ("more", "hosts"), [("", ["127.0.0.1"]), ('hosts = ["a.example", "b.example"]\n', ["a.example", "b.example"])]
)
def test_the_gateway_shows_hosts_and_what_their_requests_mean(
    more: str, hosts: list[str], tmp_path: Path, valkey: EmbeddedValkey, realm_name: str
) -> None:
    """A front reads it: those of the table, or the one of the service itself."""
    realm = GatewayRealm(tmp_path, valkey.url, name=realm_name)
    table = f'[upstream.api]\naudience = "orders"\nurl = "http://127.0.0.1:9"\ncatalogue = "github"\n{more}'
    settings = read_settings(realm.write(table, port=1))
    with serving(Gateway(settings), lifespan="off", log_level="critical") as port:
        found = httpx.get(f"http://127.0.0.1:{port}/hosts", timeout=30).json()["hosts"]
    assert [*found] == hosts
    for each in found.values():
        assert (each["upstream"], each["audience"]) == ("api", "orders")
        assert each["routes"]["GET /repos/{owner}/{name}"]["tool"] == "orders.repos.get"


def test_a_host_is_of_one_upstream(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> None:
    """A front could not know where to send its requests."""
    realm = GatewayRealm(tmp_path, valkey.url, name=realm_name)
    table = (
        '[upstream.{0}]\naudience = "orders"\nurl = "http://127.0.0.1:9"\nservice = "{0}.json"\ncatalogue = "github"\n'
    )
    realm.write_service("a.json", journal="a")
    realm.write_service("b.json", journal="b")
    settings = read_settings(realm.write(table.format("a") + table.format("b"), port=1))
    with pytest.raises(SettingsError, match=r"upstream\.b: hosts: 127\.0\.0\.1 is of upstream\.a already"):
        Gateway(settings)
