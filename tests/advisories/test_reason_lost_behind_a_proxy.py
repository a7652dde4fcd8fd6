# SPDX-License-Identifier: Apache-2.0
"""Behind the documented nginx the reason of an outage was lost, and the doctor named another server.

nginx takes a mint that answers 503 for failed.  With both failed it asked none, and answered a 502 of its own; the
command asked whether that was a mint, and the doctor said to stop the other server at the address.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.settings.realm import Realm
from tests.cli.helpers import arx
from tests.gateway.proxy_programs import nginx_program, run_nginx
from tests.house.pages import ROOT
from tests.mint.harness import make_realm
from tests.mint.processes import MintProcess
from tests.postgres import Postgres
from tests.servers import free_ports, until

pytestmark = [
    pytest.mark.servers,
    pytest.mark.long,
    pytest.mark.skipif(nginx_program() is None, reason="nginx is not installed"),
]
PAGE = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
ASKED = 6  # more than the servers that nginx can try


@contextlib.contextmanager
def documented_nginx(folder: Path, port: int, mints: list[str]) -> Iterator[None]:
    """Run nginx with the page's file, without TLS, before mints."""
    text = re.search(r"```nginx\n(# nginx.conf\n.*?)```", PAGE, re.DOTALL)
    assert text is not None
    conf = re.sub(r"\n *ssl_certificate.*", "", text[1].replace("listen 443 ssl", f"listen 127.0.0.1:{port}"))
    for number, mint in enumerate(mints, 1):
        conf = conf.replace(f"mint-{number}.example:8700", mint.removeprefix("http://"))
    (folder / "nginx.conf").write_text(conf)
    with run_nginx(folder / "nginx.conf", port):
        yield


@pytest.mark.slow
def test_the_mints_reason_reaches_the_caller(
    tmp_path: Path, postgres: Postgres, own_valkey: EmbeddedValkey, realm_name: str
) -> None:
    """Both mints lose their store: each answer through nginx is a mint's, with its reason."""
    url = postgres.database()
    make_realm(tmp_path / "realm", realm_name, database=url)
    realm = Realm.open(tmp_path / "realm")
    mints = [MintProcess(realm, own_valkey.url) for _ in range(2)]
    try:
        (port,) = free_ports(1)
        with documented_nginx(tmp_path, port, [mint.url for mint in mints]), httpx.Client() as client:
            ready = f"http://127.0.0.1:{port}/readyz"
            until(lambda: client.get(ready).status_code == 200)
            own_valkey.stop()
            until(lambda: client.get(ready).status_code != 200)
            answers = [client.get(ready) for _ in range(ASKED)]
            assert [answer.status_code for answer in answers] == [503] * ASKED
            assert all(answer.json()["because"] for answer in answers)
            address, settings = f"http://127.0.0.1:{port}", (realm.folder / "realm.toml").read_text()
            output = arx("status", "--realm-dir", realm.folder, "--issuer", address)
            assert f"the mint at {address} is not ready: " in output.err, output.err
            for mint in mints:
                mint.stop()
            # nginx alone: the command and the doctor say that it is a proxy, and whom to ask.
            refused = client.get(ready)
            assert refused.status_code == 502
            output = arx("status", "--realm-dir", realm.folder, "--issuer", address)
            assert "as a proxy whose mint did not answer" in output.err, output.err
            assert "ask each mint behind the proxy" in output.err
            (realm.folder / "realm.toml").write_text(re.sub(r'issuer = ".*"', f'issuer = "{address}"', settings))
            doctor = arx("doctor", "--realm-dir", realm.folder, "--store", own_valkey.url)
            assert "as a proxy whose mint did not answer" in doctor.out, doctor.out
            assert "stop the other server" not in doctor.out
    finally:
        for mint in mints:
            mint.kill()
        postgres.drop(url)
