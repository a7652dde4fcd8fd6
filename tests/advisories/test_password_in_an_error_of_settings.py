# SPDX-License-Identifier: Apache-2.0
"""A password in a URL of `gateway.toml` was in the error about that URL, and so in the log of a service manager.

An upstream's URL with another scheme, and the URL of a decider of AuthZEN, were quoted whole.
"""

from pathlib import Path

import pytest

from arx_caps.gateway.base.settings import read_settings
from arx_verifier.errors import SettingsError
from tests.cli.helpers import arx

PASSWORD = "hunter2"
AUTHZEN = """\
[decider.pdp]
kind = "authzen"
listen = "127.0.0.1:8093"
audience = "orders"
peps = { pep = "env:A" }
url = "URL"
"""
UPSTREAM = """\
[upstream.orders]
audience = "orders"
url = "URL"
"""
FILES = {
    "the scheme of an upstream": UPSTREAM.replace("URL", f"htps://arx:{PASSWORD}@orders.example/mcp"),
    "the URL of a decider": AUTHZEN.replace("URL", f"https://arx:{PASSWORD}@pdp.example"),
    "the query of a decider": AUTHZEN.replace("URL", f"https://pdp.example/?key={PASSWORD}"),
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_an_error_about_a_url_does_not_quote_it(tmp_path: Path, text: str) -> None:
    """
    Neither the exception nor what the command prints has the password; both have the line of the URL.
    """
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    line = text.count("\n")
    with pytest.raises(SettingsError) as refused:
        read_settings(file)
    ran = arx("gateway", file, "--check", "--json")
    assert ran.exit_code == 2
    for shown in (str(refused.value), repr(refused.value), ran.err, ran.out):
        assert f":{line}: " in shown
        assert PASSWORD not in shown
