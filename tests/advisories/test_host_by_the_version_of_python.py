# SPDX-License-Identifier: Apache-2.0
"""A redirect URI, an issuer or a URL of a login with text beside a host in brackets passed on some versions of Python.

``urlsplit`` takes ``https://[::1]x`` for the host ``::1`` on Python 3.11.7 and refuses it on 3.13.5; ``geturl`` and
``is_loopback`` differ as well.  Such a host is none now, on each version.
"""

import pytest

from arx_caps.agent.sessions.mint_client import is_private
from arx_caps.credentials.jose import _place
from arx_caps.mint.oauth.client.redirects import check_redirect
from arx_caps.mint.policy.issuers import _wrong_place
from arx_caps.settings.realm import is_safe_url
from arx_verifier.errors import RequestError, SettingsError
from arx_verifier.revocation.relay_link import RelayAddress
from arx_verifier.revocation.store_url import _read_many

pytestmark = pytest.mark.spec("CONTROL 5.8")


@pytest.mark.parametrize("host", ["[::1]x", "x[::1]", "[v1.x]", "[x]", "[]"])
def test_text_beside_brackets_is_no_host(host: str) -> None:
    """No client registers it, no key is fetched there, no person logs in there."""
    url = f"https://{host}/a"
    with pytest.raises(RequestError):
        check_redirect(url)
    assert (_wrong_place(url) is None, is_safe_url(url), _place(url)) == (False, False, None)
    with pytest.raises(SettingsError, match="relay"):
        RelayAddress(f"relay://{host}:7700")


def test_a_path_of_two_slashes_is_no_redirect() -> None:
    """Without a host, readers differ in what it is."""
    with pytest.raises(RequestError):
        check_redirect("com.example.app:////cb")
    assert check_redirect("com.example.app:/cb") == "com.example.app:/cb"
    assert check_redirect("https://app.example/cb?a=b") == "https://app.example/cb?a=b"


def test_ipv4_inside_ipv6_is_no_loopback() -> None:
    """Python 3.13 takes it for one, 3.11 does not."""
    assert not is_private("http://[::ffff:127.0.0.1]:8700")
    assert _wrong_place("http://[::ffff:127.0.0.1]/keys") is not None
    assert is_private("http://[::1]:8700")


def test_hosts_of_a_store_are_read_alike() -> None:
    """A name beside an address in brackets was refused on some versions."""
    hosts, service, _ = _read_many("redis", "sentinel", "u:p@a:1,[::2]:2/main")
    assert (hosts, service) == ([("a", 1), ("::2", 2)], "main")
