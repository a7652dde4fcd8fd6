# SPDX-License-Identifier: Apache-2.0
"""Log people in at a real OpenID provider, nanoidp, in an environment of its own: ``make login``.

A browser without scripts fills in the provider's login form, with a code of RFC 6238 where a person has a second
factor, and the mint's consent page; an operator signs in to the console, and a command line by a device code.
"""

import base64
import contextlib
import hmac
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import httpx

from arx_caps.cli.access.device_login import DeviceCode, DeviceLogin
from arx_caps.cli.commands.doctor.login import check_login
from arx_caps.credentials.jose import SigningKey
from arx_caps.settings.realm import Login
from tests.console.harness import Browser
from tests.mint.harness import AGENT, ISSUER, Harness, Holder, open_unit
from tests.mint.login import MINT_CLIENT, MINT_SECRET, POLICY, Flow, claims_of
from tests.routes.environments import ROOT, environment_of

VERSION = "3.4.0"
START_S = 120.0
USERS: Mapping[str, Any] = {
    "ann": {"password": "ann-1", "email": "ann@acme.example", "groups": ["support"]},
    "bob": {"password": "bob-1", "email": "bob@acme.example", "groups": ["leads"]},
    "eve": {"password": "eve-1", "groups": ["sre"], "totp_secret": "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"},
}
CLI = "arx-cli"
CLI_CLIENT = {"client_id": CLI, "token_endpoint_auth_method": "none", "redirect_uris": ["http://127.0.0.1/unused"]}
OPERATORS = """
[[operator]]
issuer = "corp"
claims = { groups = "sre", amr = "otp" }
role = "responder"

# This provider puts groups into an ID token where the parameter `claims` asks for them: not for a device code.
[[operator]]
issuer = "corp"
claims = { sub = "eve", amr = "otp" }
role = "approver"
"""


@contextlib.contextmanager
def provider(
    folder: Path, mint: str = ISSUER, users: Mapping[str, Any] = USERS, clients: Sequence[Mapping[str, Any]] = ()
) -> Iterator[str]:
    """Run nanoidp for a mint, and give its URL.

    Args:
        folder: For its files.
        mint: The mint's public base URL.
        users: Who can log in, by name.
        clients: Further clients.
    """
    command = environment_of(ROOT / "build" / "login" / "nanoidp", f"nanoidp=={VERSION}").with_name("nanoidp")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    client = {"client_id": MINT_CLIENT, "client_secret": MINT_SECRET, "redirect_uris": [f"{mint}/oauth/callback"]}
    settings: dict[str, Any] = {
        "config_version": 1,
        "server": {"host": "127.0.0.1", "port": port},
        "oauth": {
            "issuer": url,
            "audience": "none",
            "token_expiry_minutes": 60,
            "clients": [client, CLI_CLIENT, *clients],
        },
        "login": {"totp": True},
        "device_flow": {"polling_interval": 1},
    }
    if clients:
        settings["oauth"]["scopes_supported"] = ["openid", "profile", "email", "address"]
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
    return log_in(begun.headers["location"], name)


def log_in(url: str, name: str) -> str:
    """Fill in the provider's login, and return the URL to which the browser comes back."""
    with httpx.Client(timeout=60) as browser:
        answer = fill_in(browser, url, browser.get(url), username=name, password=str(USERS[name]["password"]))
        if "totp_secret" in USERS[name]:
            assert not answer.is_redirect, "the provider asked for no second factor"
            wrong = fill_in(browser, url, answer, totp_code="000000")
            assert not wrong.is_redirect, "the provider took a wrong code"
            answer = fill_in(browser, url, wrong, totp_code=totp(str(USERS[name]["totp_secret"])))
        assert answer.is_redirect, answer.text
        return str(answer.headers["location"])


def fill_in(browser: httpx.Client, url: str, page: httpx.Response, **typed: str) -> httpx.Response:
    """Send the form of a page of the provider."""
    fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
    return browser.post(url, data={field: unescape(value) for field, value in fields.items()} | typed)


def totp(secret: str) -> str:
    """Return the code of this half minute (RFC 6238), as the person's authenticator shows it."""
    counter = struct.pack(">Q", int(time.time()) // 30)
    digest = hmac.digest(base64.b32decode(secret), counter, "sha1")
    number = int.from_bytes(digest[(at := digest[-1] & 15) : at + 4]) & 0x7FFFFFFF
    return f"{number % 10**6:06}"


def sign_in_operators(harness: Harness, url: str) -> None:
    """Sign a person in to the console with a second factor, and the command line by a device code."""
    browser = Browser(harness)

    def login(name: str, **query: str) -> str:
        begun = browser.client.get("/console/login", params=query, follow_redirects=False)
        return browser.get(log_in(begun.headers["location"], name).removeprefix(ISSUER))

    assert "[[operator]]" in login("ann"), "a person of another group, without a second factor, got in"
    assert browser.status == 403
    page = login("eve", next="/console/now")
    assert "url=/console/now" in page, page
    assert "corp.eve" in browser.get("/console/now")
    # The provider says when the person logged in, so the sign-in is fresh.
    assert harness.mint.db.console_sessions.list()[0].fresh_until > time.time() * 1000

    def confirm(code: DeviceCode) -> None:
        with httpx.Client(timeout=60) as phone:
            page, do = f"{url}/device", {"action": "authorize"}
            typed = {"user_code": code.user_code, "username": "eve", "password": "eve-1"}
            asked = fill_in(phone, page, phone.get(page), **typed, **do)
            done = fill_in(phone, page, asked, totp_code=totp(str(USERS["eve"]["totp_secret"])), **do)
            assert done.status_code == 200, done.text

    token = DeviceLogin(url, CLI, "openid profile email", None, confirm).run()
    holder = Holder(harness, SigningKey.generate(), None)
    answer = holder.call("POST", "/v1/login", {"id_token": token})
    assert answer.status_code == 201, answer.text
    whoami = Holder(harness, holder.key, answer.json()["token"]).call("GET", "/v1/whoami").json()
    assert (whoami["name"], whoami["role"]) == ("corp.eve", "approver")


def main() -> None:
    """Run it.

    Raises:
        SystemExit: The provider does not start.
    """
    os.environ["ARX_TEST_LOGIN_SECRET"] = MINT_SECRET
    with tempfile.TemporaryDirectory() as name, provider(Path(name)) as url:
        policy = POLICY.format(issuer=url).replace(f"{url}/keys", f"{url}/.well-known/jwks.json")
        policy = policy.replace('["ES256"]', '["RS256"]')
        login = Login(url, MINT_CLIENT, "env:ARX_TEST_LOGIN_SECRET", "openid profile email", CLI)
        policy += OPERATORS
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
            assert (session.subject_issuer, session.agent) == (url, AGENT)
            assert flow.client.active(token)
            # A person of another group may not, and may have the task that is for all.
            refused = flow.answer_of(flow.visit(sign_in(flow, "ann", scope="refund")))
            assert refused["error"] == "access_denied", refused
            back = flow.visit(sign_in(flow, "ann", scope="lookup"))
            assert back.headers.get("location", "").startswith("/oauth/consent?"), (back.headers, back.text)
            sign_in_operators(harness, url)
            # `arx doctor` learns from the provider whether it knows the mint.
            assert {check.ok for check in check_login(harness.realm)} == {True}
            assert "operators" in {check.name for check in check_login(harness.realm)}
            *_, last = check_login(replace(harness.realm, issuer="https://other.example"))
            assert (last.ok, "400" in last.found) == (False, True), last
    sys.stdout.write(f"nanoidp {VERSION}: logged in, consented, refused; signed in operators with a second factor\n")


if __name__ == "__main__":
    main()
