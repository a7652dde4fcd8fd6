# SPDX-License-Identifier: Apache-2.0
"""An operator who may add receivers must not make the mint call its own network, by a webhook or a redirect.

CONTROL 7.3: who may write to the mint's API need not have a place in its network.
"""

from dataclasses import replace

import pytest

from arx_caps.mint.db.notices import TEST
from arx_caps.mint.notifications.message import Notice
from arx_caps.mint.notifications.receivers import Outcome, Receiver, check_url, new_secret, send_notice
from arx_caps.settings.realm import Realm
from arx_verifier.errors import RequestError, SettingsError
from tests.mint.harness import Harness
from tests.mint.receiver import ReceiverProcess

pytestmark = pytest.mark.spec("CONTROL 7.3")

BAD_URLS = [
    "http://alerts.example/",
    "HTTPS://alerts.example/",
    "https://Alerts.example/",
    "https://user@alerts.example/",
    "https://user:pass@alerts.example/",
    "https://alerts.example/#x",
    "https://alerts.example\\@evil.example/",
    "https://alerts.example:0443/",
    "https://alerts.example:65536/",
    "https://alerts.example?x",
    "https://alerts.example/a b",
    "https://alerts.example/\n",
    "https://alerts.example/\u00e4",
    "https://alerts.example/" + "x" * 1024,
    "http://10.0.0.1:9000/",
    "file:///etc/passwd",
    "",
]
OWN = ["https://127.0.0.1/", "https://localhost/", "https://[::1]/", "https://169.254.169.254/latest", "https://10.1/"]


def send(realm: Realm, url: str) -> Outcome:
    return send_notice(Receiver(url, new_secret()), "json", Notice("n-1", TEST, 0, {"by": "operator:ada"}), realm)


def test_no_url_of_another_form(unit: Harness) -> None:
    """Plain HTTP is for a listed host of this machine alone, also if another host is listed."""
    listed = ("10.0.0.1:9000",)
    for url in BAD_URLS:
        with pytest.raises(RequestError):
            check_url(url, listed)
        answer = unit.operator().call("POST", "/v1/webhooks", {"url": url or " "})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert check_url("https://alerts.example:8443/a?b=c", ())
    assert check_url("http://127.0.0.1:9000/a", ("127.0.0.1:9000",))


@pytest.mark.sqlite
@pytest.mark.servers
def test_no_address_of_the_own_network(unit: Harness, receiver: ReceiverProcess) -> None:
    """By number or name; and a host that is taken off the list is not called any more."""
    for url in (*OWN, f"https://{receiver.netloc}/200"):
        outcome = send(unit.realm, url)
        assert outcome.status is None
        assert outcome.error is not None
        assert "not public" in outcome.error
    receiver.got.clear()
    assert send(replace(unit.realm, webhook_hosts=(receiver.netloc,)), receiver.url()).error is None
    assert send(unit.realm, receiver.url()).error
    assert len(receiver.wait(1)) == 1


@pytest.mark.sqlite
@pytest.mark.servers
def test_no_redirect(unit: Harness, receiver: ReceiverProcess) -> None:
    """Its address was not checked."""
    receiver.got.clear()
    outcome = send(replace(unit.realm, webhook_hosts=(receiver.netloc,)), receiver.url("/redirect"))
    assert outcome == Outcome(307, "answered 307")
    assert [one.path for one in receiver.wait(1, "/redirect")] == ["/redirect"]
    assert receiver.at("/200") == []


@pytest.mark.sqlite
def test_the_list_names_hosts(unit: Harness) -> None:
    """A pattern, a URL or a network is no host."""
    for text in ('["*"]', '["https://a.example"]', '["10.0.0.0/8"]', '["A.example"]', '"a.example"', "[1]"):
        settings = unit.realm.folder / "realm.toml"
        before = settings.read_text()
        settings.write_text(before + f"webhook_hosts = {text}\n")
        with pytest.raises(SettingsError, match="webhook_hosts"):
            Realm.open(unit.realm.folder)
        settings.write_text(before)
