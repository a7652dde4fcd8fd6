# SPDX-License-Identifier: Apache-2.0
"""``arx init``: make a realm's folder, with its root and log keys, its first operator and a policy to begin with."""

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.place import ca_option, database_option, store_url_option
from arx_caps.cli.secure_files import read_text
from arx_caps.cli.terminal import Console, pairs
from arx_caps.realm import DEFAULT_FOLDER, DEFAULT_LISTEN

LOOPBACK: Final = ("127.0.0.1:", "localhost:", "[::1]:")


@click.command("init")
@click.argument("directory", required=False, type=click.Path(path_type=Path), envvar="ARX_HOME")
@click.option("--name", default="local", show_default=True, help="the realm's name; every token says it")
@click.option("--listen", help=f"host:port that the mint listens at; else a loopback issuer's, else {DEFAULT_LISTEN}")
@click.option("--issuer", envvar="ARX_ISSUER", help="the mint's public address; else http:// and where it listens")
@store_url_option
@database_option
@ca_option
@click.option("--passphrase-file", type=click.Path(), help='seal the root key with this file\'s text ("-": stdin)')
@click.option("--log-origin", help="the audit log's name for good; else the issuer's host, the realm and /log")
@common_options
@pass_console
def init_command(
    console: Console,
    directory: Path | None,
    name: str,
    listen: str | None,
    issuer: str | None,
    store: str | None,
    database: str | None,
    ca: str | None,
    passphrase_file: str | None,
    log_origin: str | None,
) -> None:
    """Make a realm in DIRECTORY, ./.arx when left out.  What is there already is never overwritten."""
    from arx_caps.mint.server.init_realm import init_realm  # the mint's parts are optional to install

    folder = directory or Path(DEFAULT_FOLDER)
    listen = listen or _listen_of(issuer)
    passphrase = read_text(passphrase_file) if passphrase_file else None
    realm = init_realm(
        folder,
        name=name,
        issuer=issuer or f"http://{listen}",
        listen=listen,
        passphrase=passphrase,
        store=store,
        database=database,
        log_origin=log_origin,
        ca=ca,
    )
    value = {
        "realm": realm.name,
        "folder": str(realm.folder),
        "issuer": realm.issuer,
        "listen": realm.listen,
        "policy": str(realm.policy_path),
        "operator_key": str(realm.operator_key_path),
        "sealed_with": "passphrase" if passphrase else "key file",
    }
    console.data("realm", value, lambda: pairs([(name.replace("_", " "), fact) for name, fact in value.items()]))
    sealed = f" --passphrase-file {passphrase_file}" if passphrase_file not in (None, "-") else ""
    console.hint(f"edit {realm.policy_path}, then `arx up{_where(directory)}{sealed}`")


def _listen_of(issuer: str | None) -> str:
    """Listen where the issuer says, if it is on this machine; a public issuer has something in front of it."""
    host_and_port = urlsplit(issuer or "").netloc
    return host_and_port if host_and_port.startswith(LOOPBACK) else DEFAULT_LISTEN


def _where(directory: Path | None) -> str:
    return "" if directory is None else f" --realm-dir {directory}"
