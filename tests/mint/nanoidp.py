# SPDX-License-Identifier: Apache-2.0
"""Log people in at a real OpenID provider, nanoidp, in an environment of its own: ``make login``.

A browser without scripts fills in the provider's login form and the mint's consent page.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import httpx

from arx_caps.cli.commands.doctor.login import check_login
from arx_caps.realm import Login
from tests.mint.harness import AGENT, ISSUER, open_unit
from tests.mint.login import MINT_CLIENT, MINT_SECRET, POLICY, Flow, claims_of
from tests.routes.environments import ROOT, environment_of

VERSION = "3.4.0"
START_S = 120.0
USERS = {
    "ann": {"password": "ann-1", "email": "ann@acme.example", "groups": ["support"]},
    "bob": {"password": "bob-1", "email": "bob@acme.example", "groups": ["leads"]},
}


@contextlib.contextmanager
def provider(folder: Path, mint: str = ISSUER, users: Mapping[str, Any] = USERS) -> Iterator[str]:
    """Run nanoidp for a mint, and give its URL.

    Args:
        folder: For its files.
        mint: The mint's public base URL.
        users: Who can log in, by name.
    """
    command = environment_of(ROOT / "build" / "login" / "nanoidp", f"nanoidp=={VERSION}").with_name("nanoidp")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    client = {"client_id": MINT_CLIENT, "client_secret": MINT_SECRET, "redirect_uris": [f"{mint}/oauth/callback"]}
    settings = {
        "config_version": 1,
        "server": {"host": "127.0.0.1", "port": port},
        "oauth": {"issuer": url, "audience": "none", "token_expiry_minutes": 60, "clients": [client]},
    }
    # JSON is YAML.
    (folder / "settings.yaml").write_text(json.dumps(settings))
    (folder / "users.yaml").write_text(json.dumps({"config_version": 1, "users": users}))
    (folder / "keys").mkdir()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [command, "--config", folder, "--profile", "oauth21"], stdout=log, stderr=log, cwd=folder
        )
        try:
            until = time.monotonic() + START_S
            while True:
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(f"{url}/.well-known/openid-configuration").raise_for_status()
                    break
                if time.monotonic() > until or process.poll() is not None:
                    sys.exit(f"nanoidp does not start:\n{(folder / 'log').read_text()}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def sign_in(flow: Flow, name: str, **query: str) -> str:
    """Log a person in at the provider, and return the URL to which the browser comes back."""
    begun = flow.begin(**query)
    assert begun.status_code == 303, begun.text
    url = begun.headers["location"]
    with httpx.Client(timeout=60) as browser:
        page = browser.get(url)
        fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
        form = {field: unescape(value) for field, value in fields.items()}
        answer = browser.post(url, data=form | {"username": name, "password": USERS[name]["password"]})
        assert answer.is_redirect, answer.text
        return str(answer.headers["location"])


def main() -> None:
    """Run it.

    Raises:
        SystemExit: The provider does not start.
    """
    os.environ["ARX_TEST_LOGIN_SECRET"] = MINT_SECRET
    with tempfile.TemporaryDirectory() as name, provider(Path(name)) as url:
        policy = POLICY.format(issuer=url).replace(f"{url}/keys", f"{url}/.well-known/jwks.json")
        policy = policy.replace('["ES256"]', '["RS256"]')
        login = Login(url, MINT_CLIENT, "env:ARX_TEST_LOGIN_SECRET", "openid profile email")
        with open_unit(Path(name) / "realm", policy=policy, login=login) as harness:
            harness.enrol()
            flow = Flow(harness)
            # One of the group may have the task, which runs on behalf of that person.
            back = flow.visit(sign_in(flow, "bob", scope="refund"))
            assert back.headers.get("location", "").startswith("/oauth/consent?"), (back.headers, back.text)
            page = flow.visit(back.headers["location"])
            answer = flow.answer_of(flow.answer(page, order_id="o-1", amount="5", fast="true"))
            token = flow.redeem(answer["code"]).json()["access_token"]
            session = harness.mint.db.sessions.find(claims_of(harness, token).sid)
            assert session is not None
            assert (session["subject_issuer"], session["agent"]) == (url, AGENT)
            assert flow.client.active(token)
            # A person of another group may not, and may have the task that is for all.
            refused = flow.answer_of(flow.visit(sign_in(flow, "ann", scope="refund")))
            assert refused["error"] == "access_denied", refused
            back = flow.visit(sign_in(flow, "ann", scope="lookup"))
            assert back.headers.get("location", "").startswith("/oauth/consent?"), (back.headers, back.text)
            # `arx doctor` learns from the provider whether it knows the mint.
            assert {check.ok for check in check_login(harness.realm)} == {True}
            *_, last = check_login(replace(harness.realm, issuer="https://other.example"))
            assert (last.ok, "400" in last.found) == (False, True), last
    sys.stdout.write(f"nanoidp {VERSION}: logged in, consented, and refused\n")


if __name__ == "__main__":
    main()
