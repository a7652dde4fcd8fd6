# SPDX-License-Identifier: Apache-2.0
"""``arx mint``: run the mint alone, with a revocation store of your own, and read what it recorded."""

from pathlib import Path
from typing import Any

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.display import show_json
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, common_options, pass_console
from arx_caps.cli.parse import Duration
from arx_caps.cli.place import database_option, realm_dir_option, store_url_option
from arx_caps.cli.secure_files import passphrase_option, read_passphrase
from arx_caps.cli.terminal import Console, json_line, plain, table
from arx_caps.durations import parse_duration, show_time
from arx_caps.realm import Realm

DEFAULT_ISSUER = "http://127.0.0.1:8700"


@click.group("mint", cls=Verbs)
def mint_command() -> None:
    """Run the mint alone, with a store of your own; read what it recorded."""


@mint_command.command("serve")
@click.option("--host", help="address to listen at; else as realm.toml says")
@click.option("--port", type=click.IntRange(0, 65535), help="port to listen at; else as realm.toml says")
@click.option("--behind-tls", is_flag=True, help="TLS ends before the mint, so it may listen beyond loopback")
@click.option(
    "--log",
    type=click.Choice(["warning", "info"]),
    envvar="ARX_LOG",
    default="warning",
    show_default=True,
    help="what to log on stderr, in lines of JSON: a line a request, or what went wrong alone",
)
@passphrase_option
@store_url_option
@database_option
@realm_dir_option
@common_options
def serve_command(
    realm_dir: Path,
    store: str | None,
    database: str | None,
    host: str | None,
    port: int | None,
    behind_tls: bool,
    log: str,
    passphrase_file: str | None,
) -> None:
    """Serve the mint until a signal says to stop; one JSON line on stderr says that it listens."""
    from arx_caps.mint.api.access_log import log_lines
    from arx_caps.mint.server.serve import serve

    log_lines(log)
    try:
        passphrase = read_passphrase(passphrase_file)
        serve(realm_dir, host, port, store, behind_tls=behind_tls, passphrase=passphrase, database=database)
    except SystemExit as error:  # how uvicorn says that it could not listen
        raise Stop(
            "the mint could not listen; its log says why", exit_codes.UNREACHABLE, code="not_listening"
        ) from error


@mint_command.command("events")
@click.option("--since", type=Duration(), help="only what was recorded in this time, such as 15m; else all")
@click.option("--kind", "kinds", multiple=True, help="only this kind, such as session.opened; may be given again")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=200, show_default=True, help="only the last so many"
)
@click.option("--jsonl", is_flag=True, help="write one JSON object a line")
@database_option
@realm_dir_option
@common_options
@pass_console
def events_command(
    console: Console,
    realm_dir: Path,
    database: str | None,
    since: str | None,
    kinds: tuple[str, ...],
    limit: int,
    jsonl: bool,
) -> None:
    """Show what the mint did, for whom: sessions, tasks, kills, enrolments; straight from its database."""
    from arx_caps.mint.db.database import now_ms
    from arx_caps.mint.db.mint_database import MintDatabase

    with MintDatabase(database or Realm.open(realm_dir).database_url) as db:
        found = db.outbox.since(0 if since is None else now_ms() - parse_duration(since), kinds, limit)
    if jsonl:
        for event in found:
            console.raw(json_line("event", event.to_dict()))
        return
    rows = [(show_time(event.at_ms), event.kind, event.by, _told(event.facts)) for event in found]
    value = {"events": [event.to_dict() for event in found]}
    console.data("events", value, lambda: table(("TIME", "EVENT", "BY", "FACTS"), rows))
    if not found:
        console.say("nothing like that is recorded")


@mint_command.command("migrate")
@click.option("--check", is_flag=True, help="change nothing; exits with 1 when there is something to change")
@database_option
@realm_dir_option
@common_options
@pass_console
def migrate_command(console: Console, realm_dir: Path, database: str | None, check: bool) -> None:
    """Bring the mint's database into the form this version knows; a mint that starts does it by itself.

    Make a backup before: there is no way back.
    """
    from arx_caps.mint.db.migrations import HEAD
    from arx_caps.mint.db.mint_database import MintDatabase

    with MintDatabase(database or Realm.open(realm_dir).database_url) as db:
        before = db.revision() if check else db.create()
    value = {"before": before, "now": before if check else HEAD, "known": HEAD}
    said = f"the database is at revision {value['now'] or 'none'}; this version knows {HEAD}"
    console.data("migration", value, said)
    click.get_current_context().exit(exit_codes.OK if value["now"] == HEAD else exit_codes.DENIED)


@mint_command.command("openapi")
@realm_dir_option
@common_options
@pass_console
def openapi_command(console: Console, realm_dir: Path) -> None:
    """Print the HTTP API as an OpenAPI 3.1 document; a mint serves it at /openapi.json."""
    import msgspec

    from arx_caps.mint.api.app import describe_api

    issuer = Realm.open(realm_dir).issuer if (realm_dir / "realm.toml").exists() else DEFAULT_ISSUER
    console.raw(msgspec.json.format(msgspec.json.encode(describe_api(issuer))).decode())


def _told(facts: dict[str, Any]) -> str:
    """Return an event's facts on one line."""
    known = {name: value for name, value in facts.items() if value not in (None, {}, [])}
    return plain(" ".join(f"{name}={_one(name, value)}" for name, value in known.items()))


def _one(name: str, value: object) -> str:
    """Return a fact as text: text as it is, a list of texts with commas, a time as one, everything else as JSON."""
    if name.endswith("_at") and isinstance(value, int):
        return show_time(value).replace(" ", "T")
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ",".join(value)
    return value if isinstance(value, str) else show_json(value)
