# SPDX-License-Identifier: Apache-2.0
"""One task of a person at two upstreams, each of which sees the account that the person has connected there."""

from pathlib import Path

import httpx
import pytest

from tests.gateway.people import CONNECTION, GATEWAY, POLICY, Tracker, people
from tests.servers import free_ports, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 9.3")]
TWO = (
    POLICY
    + """
[audience.mail]
origins = ["http://127.0.0.1:MAIL"]
[task.both]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp" }} ]
ttl = "10m"
audience = ["tracker", "mail"]
upstream = {{ tracker = {{ "*" = ["repo.read"] }}, mail = {{ "*" = ["repo.read"] }} }}
allow = [ {{ tool = "tracker.get", any = true }}, {{ tool = "mail.get", any = true }} ]
"""
)
UPSTREAM = '[upstream.mail]\naudience = "mail"\nurl = "{url}"\ncredential = {{ connection = "mail" }}\n'
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
ACCOUNTS = {"tracker": "ann-t", "mail": "ann-m"}


def test_a_message_without_a_tool_has_the_account_of_its_upstream(tmp_path: Path) -> None:
    """Person, session, task and tool are the same at both; the upstream alone is another one."""
    [mail] = free_ports(1)
    gateway = GATEWAY.replace(":{gateway}", f':{{gateway}}", "127.0.0.1:{mail}')
    connection = CONNECTION + CONNECTION.replace("tracker]", "mail]").replace('"tracker"', '"mail"')
    tracker = Tracker()
    files = {"connection": connection, "policy": TWO.replace("MAIL", str(mail)), "gateway": gateway, "routes": UPSTREAM}
    with (
        people(tmp_path, tracker=tracker, url=f"{tracker.url}/v1/mcp", **files) as world,
        world.task("ann", "both") as task,
    ):

        def account(audience: str, port: int) -> str:
            """Return the account that the upstream sees of a list of tools, which the person connects once."""
            url, seen = f"http://127.0.0.1:{port}/{audience}", tracker.seen
            before = len(seen)

            def is_seen() -> bool:
                error = httpx.post(url, json=LIST, auth=task.auth(audience), timeout=30).json().get("error", {})
                link = error.get("data", {}).get("connect_url")
                if link is not None:
                    assert "Connected" in world.connect(link, "ann", ACCOUNTS[audience]).text
                return len(seen) > before

            until(is_seen)
            return seen[-1][0]

        for _ in range(2):
            assert (account("tracker", world.gateway), account("mail", mail)) == ("ann-t", "ann-m")
