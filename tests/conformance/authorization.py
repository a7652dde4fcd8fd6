# SPDX-License-Identifier: Apache-2.0
"""Run the suite's scenarios for authorization servers against the mint; a browser without scripts consents."""

import re
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Final

import httpx

from tests.conformance.packages import BUILD
from tests.conformance.suite import BAD, checks_of, failures, outcome_of, started_suite
from tests.conformance.world import World
from tests.servers import free_ports, until

METADATA: Final = "authorization-server-metadata-endpoint"
KIND: Final = "authorization-server-"
GRANT: Final = "authorization-code-grant"
_WAIT_S: Final = 120


def authorization_faults(world: World, packages: Path, client: str) -> Iterator[str]:
    """Yield a line for each check that failed or warned.

    Args:
        world: What runs.
        packages: The folder of the npm packages.
        client: The id of a public client with one scope.
    """
    (port,) = free_ports(1)
    folder = BUILD / "authorization"
    words = ("--client-id", client, "--resource", world.web, "--port", str(port))
    with started_suite(packages, folder / "mint", "authorization", "--url", world.mint, *words) as suite:
        _consent(suite, folder / "mint" / "output.txt", world.mint)
        suite.wait(_WAIT_S)
    outcome = outcome_of(folder / "mint", KIND)
    if set(outcome) != {METADATA, GRANT}:
        yield f"authorization: expected two scenarios, got {sorted(outcome)}"
    yield from (f"authorization: {line}" for line in failures(outcome))
    # Whose issuer is the mint, also where the gateway shows it: RFC 8414 3.3 lets no client take it from another URL.
    words = ("--url", world.gateway, "--scenario", METADATA)
    with started_suite(packages, folder / "mirror", "authorization", *words) as suite:
        suite.wait(_WAIT_S)
    checks = checks_of(folder / "mirror", KIND)[METADATA]
    found = [each.get("errorMessage") for each in checks if each["status"] in BAD]
    if found != [f"Invalid issuer: {world.mint}"]:
        yield f"authorization at the gateway: expected another issuer and nothing else, got {found}"


def _consent(suite: subprocess.Popen[bytes], output: Path, mint: str) -> None:
    """Follow the URL that the suite writes, log in, allow, and take the answer to the suite."""
    asks = re.compile(rf"^{re.escape(mint)}/oauth/authorize\?.*$", re.MULTILINE)
    until(lambda: asks.search(output.read_text("utf-8")) or suite.poll() is not None)
    url = asks.search(output.read_text("utf-8"))
    if url is None:
        return  # the suite says why
    with httpx.Client(follow_redirects=True, trust_env=False, timeout=30) as browser:
        page = browser.get(url[0])
        token = re.search(r'name="token" value="([^"]*)"', page.text)
        if token is None:
            raise RuntimeError(f"no page to consent at: {page.status_code} {page.text}")
        browser.post(f"{mint}/oauth/consent", data={"token": unescape(token[1]), "answer": "allow"}).raise_for_status()
