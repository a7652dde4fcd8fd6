# SPDX-License-Identifier: Apache-2.0
"""A page of any site could call a gateway: `Origin` was not looked at, which MCP demands against DNS rebinding.

No credential is ambient, so that a page gets no more than any other program; it can be one of a machine that no other
program reaches.  Now a page's request is refused, unless `origins` names it, or access tokens are taken.
"""

import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.gateway.base.settings import read_settings
from arx_verifier import Rule
from arx_verifier.errors import SettingsError
from tests.gateway.gateway_realm import GatewayRealm, gateway
from tests.servers import free_ports

UPSTREAM = '[upstream.orders]\naudience = "orders"\nurl = "http://127.0.0.1:1"\n'
ROUTES = '[upstream.orders.routes]\n"GET /orders/{id}" = "orders.get"\n'
FOREIGN = ["null", "https://evil.example", "http://127.0.0.1:1", "https://chat.example.evil.example"]
SPELLINGS = [
    *("http://chat.example", "https://chat.example:8443"),  # of other pages
    *("https://chat.example:443", "https://chat.example/", "HTTPS://chat.example", "https://CHAT.example"),
    *("https://chat.example\t.evil.example", "*", ""),
    *("https://chat.example https://evil.example", "https://user@chat.example", "https://chät.example"),
]
AHEAD = {"access-control-request-method": "PUT", "access-control-request-headers": "authorization"}


@pytest.fixture
def realm(tmp_path, valkey: EmbeddedValkey, realm_name: str) -> GatewayRealm:  # type: ignore[no-untyped-def]
    return GatewayRealm(tmp_path, valkey.url, name=realm_name)


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize("routes", ["", ROUTES])
def test_no_page_is_answered(realm: GatewayRealm, routes: str) -> None:
    """Neither one of another site, nor one that calls itself the gateway's own; a program without an origin is."""
    [port] = free_ports(1)
    caller = realm.caller(Rule(tool="orders.get"), session="s-1")
    with gateway(realm.write(UPSTREAM + routes, port=port), realm.folder / "log"):
        url = f"http://127.0.0.1:{port}/orders"
        for origin in (*FOREIGN, f"http://127.0.0.1:{port}"):
            page = {"origin": origin}
            for place in (url, f"{url}/orders/1", f"http://127.0.0.1:{port}/metrics", f"http://127.0.0.1:{port}/x"):
                answers = [httpx.options(place, headers=page | AHEAD), httpx.get(place, headers=page, auth=caller)]
                assert [answer.status_code for answer in answers] == [403, 403], (origin, place)
                assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]
        assert httpx.get(f"{url}/orders/1" if routes else url, auth=caller).status_code == 502
        assert httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 200


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize("routes", ["", ROUTES])
def test_a_named_page_is(realm: GatewayRealm, routes: str) -> None:
    """As a browser writes its origin, and in no other spelling; browsers may ask ahead, and show it the answer."""
    [port] = free_ports(1)
    caller = realm.caller(Rule(tool="orders.get"), session="s-1")
    members = 'origins = ["https://chat.example", "chrome-extension://abc", "http://[::1]:8080"]\n'
    with gateway(realm.write(UPSTREAM + routes, port=port, members=members), realm.folder / "log"):
        url = f"http://127.0.0.1:{port}/orders{'/orders/1' if routes else ''}"
        for origin in ("https://chat.example", "chrome-extension://abc", "http://[::1]:8080"):
            ahead = httpx.options(url, headers={"origin": origin} | AHEAD)
            assert (ahead.status_code, ahead.headers["access-control-allow-origin"]) == (204, "*")
            assert "PUT" in ahead.headers["access-control-allow-methods"]
            answer = httpx.get(url, headers={"origin": origin}, auth=caller)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (502, "*")
        for origin in (*FOREIGN, *SPELLINGS):
            answer = httpx.get(url, headers=[("origin", origin.encode())], auth=caller)
            assert answer.status_code == 403, origin
        twice = [("origin", "https://chat.example"), ("origin", "https://evil.example")]
        assert httpx.get(url, headers=twice, auth=caller).status_code == 403


@pytest.mark.parametrize("origin", [*SPELLINGS[2:], "null", "https://chat.example:0443", "https://"])
def test_an_origin_that_no_browser_writes_is_an_error(tmp_path, origin: str) -> None:  # type: ignore[no-untyped-def]
    """It would be compared with what never comes."""
    file = tmp_path / "gateway.toml"
    escaped = origin.replace("\t", "\\t")
    file.write_text(f'[gateway]\norigins = ["{escaped}"]\n{UPSTREAM}', "utf-8")
    with pytest.raises(SettingsError, match=r"gateway\.origins\[1\]: expected an origin as browsers write it"):
        read_settings(file)
