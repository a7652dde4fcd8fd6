# SPDX-License-Identifier: Apache-2.0
"""Connect people's accounts at real issuers, oidc-provider of npm and nanoidp of PyPI: ``make login``.

Each issuer, and our own of the tests, must give the same results, but for what ``OTHERS`` names: two people connect, a
token for each tool is refreshed, the second time with a rotated refresh token, and the end revokes the grant.
"""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from tests.conformance.packages import node_of, node_packages
from tests.gateway.people import CLIENT, CONNECTION, POLICY, SECRET, PeopleWorld, Tracker, people
from tests.gateway.test_people import asked, connections
from tests.mint.nanoidp import provider
from tests.servers import free_ports, until

# Scopes that each issuer knows, in the place of the tracker's own.  No tool needs all, so that each has a refresh.
READ: Final = ("openid", "profile")
WRITE: Final = (*READ, "email")
ALL: Final = json.dumps([*WRITE, "address"])
RULES: Final = POLICY.replace('["repo.read", "repo.write"]', json.dumps(WRITE)).replace(
    '["repo.read"]', json.dumps(READ)
)
TERMS: Final = CONNECTION.replace('["repo.read", "repo.write"]', ALL)
PEOPLE: Final = {"ann": "ann-t", "bob": "bob-t"}
EXPECTED: Final = {
    "a call before": ["connection_missing", "connection_missing"],
    "account on the page": ["ann-t", "bob-t"],
    "iss is the issuer": [True, True],
    "read": ["ann-t", "bob-t"],
    "write": ["ann-t", "bob-t"],
    "scopes": {"tracker.get": sorted(READ), "tracker.put": sorted(WRITE)},
    "revoked upstream": True,
    "a call after the end": "connection_ended",
    "a token after the end": False,
    "another person after the end": "bob-t",
}
TOOLS: Final = {"read": "tracker.get", "write": "tracker.put"}
# nanoidp gives the new refresh token the scopes of the refresh alone, against RFC 6749 6, so that the write after the
# read has the person asked again.  It names itself in an answer (RFC 9207) only with a URL of https.
OTHERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "nanoidp": {
        "write": ["connection_scope", "connection_scope"],
        "scopes": {"tracker.get": sorted(READ)},
        "iss is the issuer": [False, False],
    }
}


class Upstream(Tracker):
    """An upstream that asks its issuer, by userinfo, whose access token a request has.

    Args:
        issuer: The issuer; empty if it is the upstream itself.

    Attributes:
        issuer: The same.
        tokens_of: By account, the last access token that was accepted.
    """

    def __init__(self, issuer: str = "") -> None:
        super().__init__()
        self.issuer, self.tokens_of = issuer or self.url, dict[str, str]()

    def owner(self, authorization: str) -> tuple[str, str] | None:
        """Return the account; userinfo does not have the scopes."""
        found = super().owner(authorization) if self.issuer == self.url else self._asked(authorization)
        if found is not None:
            self.tokens_of[found[0]] = authorization
        return found

    def _asked(self, authorization: str) -> tuple[str, str] | None:
        about = httpx.get(f"{self.issuer}/.well-known/openid-configuration", timeout=60).json()
        answer = httpx.get(about["userinfo_endpoint"], headers={"Authorization": authorization}, timeout=60)
        return (answer.json()["sub"], "") if answer.is_success else None


def log_in(browser: httpx.Client, page: httpx.Response, issuer: str, account: str) -> tuple[httpx.Response, str]:
    """Fill in the issuer's forms, and return the mint's page with the query of the issuer's answer."""
    typed = {"login": account, "username": account, "password": account}
    query = ""
    while True:
        here = str(page.url)
        if page.is_redirect:
            target = urljoin(here, page.headers["location"])
            if "/connect/callback/" in target:
                query = urlsplit(target).query
            page = browser.get(target)
        elif here.startswith(issuer):
            form = re.search(r"<form[^>]*>.*?</form>", page.text, re.DOTALL)
            assert form is not None, page.text
            fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0]))
            fields = {name: unescape(value) for name, value in fields.items()}
            named = re.findall(r'<input[^>]* name="([^"]+)"', form[0])
            action = re.search(r'<form[^>]* action="([^"]*)"', form[0])
            target = urljoin(here, unescape(action[1])) if action else here
            page = browser.post(target, data=fields | {name: typed[name] for name in named if name in typed})
        else:
            return page, query


def connect(world: PeopleWorld, upstream: Upstream, link: str, person: str) -> tuple[str, bool]:
    """Connect a person's account; return the account on the mint's page, and whether the answer named its issuer."""
    upstream.person = account = PEOPLE[person]
    world.login.person = {"sub": person}
    with httpx.Client(timeout=60) as browser:
        page, query = log_in(browser, browser.get(link), upstream.issuer, account)
        shown = account if account in page.text else page.text
        assert "Connected" in world.press(browser, page).text
        return shown, parse_qs(query).get("iss") == [upstream.issuer]


def results(world: PeopleWorld, upstream: Upstream) -> dict[str, Any]:
    """Return what became of two people and their accounts at one issuer."""
    found: dict[str, Any] = {}
    with (
        world.task("ann") as first,
        world.task("bob") as second,
        world.client(first) as ann,
        world.client(second) as bob,
    ):
        before = {"ann": asked(ann).json(), "bob": asked(bob).json()}
        found["a call before"] = [each["code"] for each in before.values()]
        pages = [connect(world, upstream, each["connect_url"], person) for person, each in before.items()]
        found["account on the page"], found["iss is the issuer"] = ([*each] for each in zip(*pages, strict=True))
        for name, method in (("read", "GET"), ("write", "POST")):
            answers = [asked(client, method=method).json() for client in (ann, bob)]
            found[name] = [each.get("sub", each.get("code")) for each in answers]
        tools = {tool for name, tool in TOOLS.items() if found[name] == EXPECTED[name]}
        [own] = [each for each in connections(world) if each["person"] == "ann"]
        found["scopes"] = scopes_of(world, own["id"], tools)
        ended = world.arx("connection", "end", own["id"], "--reason", "a test", "--yes")
        found["revoked upstream"] = ended["revoked_upstream"]
        found["a call after the end"] = asked(ann).json()["code"]
        found["a token after the end"] = upstream.owner(upstream.tokens_of["ann-t"]) is not None
        found["another person after the end"] = asked(bob).json().get("sub")
    return found


def scopes_of(world: PeopleWorld, connection: str, tools: set[str]) -> dict[str, list[str]]:
    """Return the scopes of the tokens that were lent for each of these tools, from the log."""
    lent: list[dict[str, Any]] = []

    def is_whole() -> bool:
        lent[:] = world.arx("audit", "trail", "--connection", connection, "--tool", "connection.lent")["records"]
        return {each["facts"]["tool"] for each in lent} == tools

    until(is_whole)
    return {each["facts"]["tool"]: sorted(each["facts"]["scopes"]) for each in lent}


@contextlib.contextmanager
def oidc_provider(client: Mapping[str, Any]) -> Iterator[str]:
    """Run oidc-provider with a client, and give its URL."""
    packages, script = node_packages(), Path(__file__).with_name("oidc_provider.mjs")
    module = packages / "oidc-provider" / "lib" / "index.js"
    [port] = free_ports(1)
    pipe = subprocess.PIPE
    words = [str(node_of(packages)), str(script), str(module), str(port)]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(client))
        process.stdin.close()
        try:
            assert any(line == "ready\n" for line in process.stdout), "oidc-provider does not start"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@contextlib.contextmanager
def nanoidp(client: Mapping[str, Any]) -> Iterator[str]:
    """Run nanoidp with a client, and give its URL."""
    users = {account: {"password": account, "email": f"{account}@acme.example"} for account in PEOPLE.values()}
    with tempfile.TemporaryDirectory() as folder, provider(Path(folder), users=users, clients=[client]) as url:
        yield url


def main() -> None:
    """Run it.

    Raises:
        SystemExit: An issuer gave other results.
    """
    wrong = []
    for name, run in {"our own": None, "oidc-provider": oidc_provider, "nanoidp": nanoidp}.items():
        [mint] = free_ports(1)
        client = {"client_id": CLIENT, "client_secret": SECRET}
        client |= {"redirect_uris": [f"http://127.0.0.1:{mint}/connect/callback/tracker"]}
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            upstream = Upstream("" if run is None else stack.enter_context(run(client)))
            terms = TERMS.replace("{url}", upstream.issuer)
            world = stack.enter_context(
                people(Path(folder), tracker=upstream, connection=terms, policy=RULES, mint=mint)
            )
            found = results(world, upstream)
        expected = {**EXPECTED, **OTHERS.get(name, {})}
        wrong += [
            f"{name}: {key}: expected {each}, got {found.get(key)}"
            for key, each in expected.items()
            if found.get(key) != each
        ]
        other = sum(found[key] != each for key, each in EXPECTED.items())
        sys.stdout.write(f"{name}: {len(EXPECTED)} results, {other} of them other than of our own\n")
        sys.stdout.flush()
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
