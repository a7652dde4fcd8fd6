# SPDX-License-Identifier: Apache-2.0
"""``arx init``: make a realm's folder, with root key, log key, first operator and an example policy."""

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from arx_caps.cli.access.place import ca_option, database_option, store_url_option
from arx_caps.cli.access.secure_files import read_given_passphrase
from arx_caps.cli.options import command_options
from arx_caps.cli.terminal import Console, pairs
from arx_caps.credentials.secret_source import COMMAND
from arx_caps.settings.realm import DEFAULT_FOLDER, DEFAULT_LISTEN

LOOPBACK: Final = ("127.0.0.1:", "localhost:", "[::1]:")


@click.command("init")
@click.argument("directory", required=False, type=click.Path(path_type=Path), envvar="ARX_HOME")
@click.option("--name", default="local", show_default=True, help="name of the realm, part of every token")
@click.option("--listen", help=f"host:port at which the mint listens [a loopback issuer's, or {DEFAULT_LISTEN}]")
@click.option("--issuer", envvar="ARX_ISSUER", help="public URL of the mint [http:// and --listen]")
@store_url_option
@database_option
@ca_option
@click.option(
    "--passphrase-file",
    type=click.Path(),
    help="file with a passphrase to seal the root key, `-` for stdin, or command:PROGRAM… [a key file]",
)
@click.option("--log-origin", help="permanent name of the audit log [from the issuer's host and the realm]")
@command_options
def init_command(
    console: Console,
    /,
    directory: Path | None,
    listen: str | None,
    issuer: str | None,
    passphrase_file: str | None,
    **settings: Any,
) -> None:
    """Make a realm in DIRECTORY [./.arx]; existing files are never overwritten."""
    from arx_caps.mint.server.init_realm import init_realm  # the mint is an optional part of the installation

    folder = directory or Path(DEFAULT_FOLDER)
    listen = listen or _listen_of(issuer)
    passphrase = read_given_passphrase(passphrase_file) if passphrase_file else None
    issuer = issuer or f"http://{listen}"
    realm = init_realm(folder, issuer=issuer, listen=listen, passphrase=passphrase, **settings)
    # Paths, and no key: the secrets are in the folder alone.
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
    in_file = passphrase_file is not None and not passphrase_file.startswith(("-", COMMAND))
    sealed = f" --passphrase-file {passphrase_file}" if in_file else ""  # the words of a command may hold a secret
    console.hint(f"edit {realm.policy_path}, then run `arx up{_where(directory)}{sealed}`")


def _listen_of(issuer: str | None) -> str:
    """Return the issuer's host and port if it is on loopback; a public issuer has a proxy, so return the default."""
    host_and_port = urlsplit(issuer or "").netloc
    return host_and_port if host_and_port.startswith(LOOPBACK) else DEFAULT_LISTEN


def _where(directory: Path | None) -> str:
    return "" if directory is None else f" --realm-dir {directory}"
