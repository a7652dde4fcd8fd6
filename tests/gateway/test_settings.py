# SPDX-License-Identifier: Apache-2.0
"""The gateway's file: what it does not understand is an error that names its place."""

from pathlib import Path

import pytest

from arx_caps.gateway.settings import read_settings
from arx_verifier.errors import SettingsError

ORDERS = '[upstream.orders]\naudience = "orders"\n'
OAUTH = 'credential = {{ from = "env:KEY", oauth = {{ token_url = "{}", client_id = "arx" }} }}\n'
URL = 'url = "http://127.0.0.1:9/mcp"\n'


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "has no upstream"),
        ("[upstream", "is not TOML"),
        ("[upstreams.orders]\n", "upstreams: expected"),
        (ORDERS, "upstream.orders: expected one of `url` and `command`"),
        (ORDERS + URL + 'command = ["x"]\n', "expected one of `url` and `command`"),
        (ORDERS + URL + "retries = 3\n", "retries"),
        (ORDERS + 'url = "ftp://a"\n', "url: expected"),
        (ORDERS + 'url = "http://user:pass@a/"\n', "url: expected no user"),
        (ORDERS + URL + 'timeout = "soon"\n', "timeout"),
        (ORDERS + URL + 'resource = "https://a/other"\n', "resource: expected"),
        (ORDERS + URL + 'resource = "https://a/orders?x"\n', "resource: expected"),
        (ORDERS + URL + 'resource = "/orders"\n', "resource: expected"),
        (ORDERS + URL + 'rate = { agent = "60" }\n', "rate: expected"),
        (ORDERS + URL + 'credential = { from = "s3cret" }\n', "credential: `from` expects"),
        (ORDERS + URL + OAUTH.format("http://login.example/token"), "token_url: expected https://"),
        (ORDERS + URL + OAUTH.format("https://s3cret@login.example/"), "token_url: expected https://"),
        (ORDERS.replace("[upstream.orders]", "[upstream.metrics]") + URL, "expected a name"),
        (ORDERS + URL + ORDERS.replace("[upstream.orders]", "[upstream.more]") + URL, "upstream.more: expected an aud"),
        (ORDERS + URL + '[upstream.more]\naudience = "more"\nservice = "./orders.json"\n' + URL, "that of orders"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    """And no secret in it is shown."""
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as refused:
        read_settings(file)
    assert place in str(refused.value)
    assert "s3cret" not in str(refused.value)
