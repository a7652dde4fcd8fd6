# SPDX-License-Identifier: Apache-2.0
"""``arx mint``: run the mint alone, and migrate its database."""

from pathlib import Path
from typing import Any

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import database_option, realm_dir_option, store_url_option
from arx_caps.cli.access.secure_files import passphrase_option, read_passphrase
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, command_options, common_options
from arx_caps.cli.terminal import Console
from arx_caps.settings.realm import Realm


@click.group("mint", cls=Verbs)
def mint_command() -> None:
    """Run the mint alone, with your own revocation store; migrate its database."""


@mint_command.command("serve")
@click.option("--host", help="address to listen at [from realm.toml]")
@click.option("--port", type=click.IntRange(0, 65535), help="port to listen at [from realm.toml]")
@click.option("--behind-tls", is_flag=True, help="listen beyond loopback, behind a proxy that terminates TLS")
@click.option(
    "--log",
    type=click.Choice(["warning", "info"]),
    envvar="ARX_LOG",
    default="warning",
    show_default=True,
    help="level of the JSON lines on stderr; info adds a line per request",
)
@passphrase_option
@store_url_option
@database_option
@realm_dir_option
@common_options
def serve_command(realm_dir: Path, store: str | None, log: str, passphrase_file: str | None, **options: Any) -> None:
    """Run the mint until SIGINT or SIGTERM; a JSON line on stderr reports that it listens."""
    from arx_caps.console.serve import serve
    from arx_caps.mint.api.access_log import log_lines

    log_lines(log)  # first, so that errors at start are JSON lines as well
    try:
        serve(realm_dir, store_url=store, passphrase=read_passphrase(passphrase_file), **options)
    except SystemExit as error:  # uvicorn exits so if it cannot listen
        raise Stop(
            "the mint cannot listen", exit_codes.UNREACHABLE, hint="see its log for the reason", code="not_listening"
        ) from error


@mint_command.command("migrate")
@click.option("--check", is_flag=True, help="change nothing; exit with 1 if the database is not current")
@database_option
@realm_dir_option
@command_options
def migrate_command(console: Console, realm_dir: Path, database: str | None, check: bool) -> None:
    """Migrate the mint's database to this version; a mint does so when it starts.

    Make a backup first: a migration cannot be undone.
    """
    from arx_caps.mint.db.migrations import HEAD
    from arx_caps.mint.db.mint_database import MintDatabase

    with MintDatabase(database or Realm.open(realm_dir).database_url) as db:
        before = db.revision() if check else db.create()
    value = {"before": before, "now": before if check else HEAD, "known": HEAD}
    text = f"the database is at revision {value['now'] or 'none'}; this version needs {HEAD}"
    console.data("migration", value, text)
    click.get_current_context().exit(exit_codes.OK if value["now"] == HEAD else exit_codes.DENIED)
