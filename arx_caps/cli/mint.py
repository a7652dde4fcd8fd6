# SPDX-License-Identifier: Apache-2.0
"""``arx mint``: run the mint alone, with a revocation store of your own."""

import logging
import os
from pathlib import Path

import click

from arx_caps.cli import exits
from arx_caps.cli.exits import Stop
from arx_caps.cli.files import read_text
from arx_caps.cli.frame import common_options
from arx_caps.cli.place import realm_dir_option, store_url_option

PASSPHRASE = "ARX_ROOT_PASSPHRASE"  # noqa: S105 - the name of a variable
passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(),
    help=f'opens the root key with this file\'s text ("-": stdin); else {PASSPHRASE}',
)


def read_passphrase(file: str | None) -> str | None:
    """Return the passphrase of the root key: from the file, else from the environment, else none."""
    return read_text(file) if file else os.environ.get(PASSPHRASE)


@click.group("mint")
def mint_command() -> None:
    """Run the mint alone, with a store of your own."""


@mint_command.command("serve")
@click.option("--host", help="address to listen at; else as realm.toml says")
@click.option("--port", type=click.IntRange(0, 65535), help="port to listen at; else as realm.toml says")
@click.option("--behind-tls", is_flag=True, help="TLS ends before the mint, so it may listen beyond loopback")
@passphrase_option
@store_url_option
@realm_dir_option
@common_options
def serve_command(
    realm_dir: Path,
    store: str | None,
    host: str | None,
    port: int | None,
    behind_tls: bool,
    passphrase_file: str | None,
) -> None:
    """Serve the mint until a signal says to stop; one JSON line on stderr says that it listens."""
    from arx_caps.mint.serve import serve

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        serve(realm_dir, host, port, store, behind_tls=behind_tls, passphrase=read_passphrase(passphrase_file))
    except SystemExit as error:  # how uvicorn says that it could not listen
        raise Stop("the mint could not listen; its log says why", exits.UNREACHABLE, code="not_listening") from error
