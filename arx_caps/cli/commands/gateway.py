# SPDX-License-Identifier: Apache-2.0
"""``arx gateway``: run the gateway before tools that cannot embed a verifier."""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.options import command_options
from arx_caps.cli.terminal import Console, log_warnings


@click.command("gateway")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--check",
    is_flag=True,
    help="read all files, print the upstreams, and end; exit code 3 if a service file is missing",
)
@click.option("--until-eof", is_flag=True, hidden=True, help="stop when standard input ends")
@click.option("--realm", hidden=True, type=click.Path(path_type=Path), help="folder of the realm that runs beside it")
@command_options
def gateway_command(console: Console, /, file: Path, check: bool, until_eof: bool, realm: Path | None) -> None:
    """Run the gateway that the TOML file FILE describes, until SIGINT or SIGTERM.

    Each upstream has a table [upstream.NAME] and is reached at the path /NAME; each decider has a table [decider.NAME]
    and an address of its own, for a proxy.  SIGHUP reads the file again; if it is wrong, the gateway goes on as before.
    /healthz, /readyz and /metrics are its own.
    """
    from arx_caps.gateway.base.settings import read_settings
    from arx_caps.gateway.serve import serve

    if check:
        _check(console, read_settings(file))
        return
    log_warnings()

    def on_ready(said: dict[str, Any]) -> None:
        upstreams = ", ".join(f"/{name}" for name in said["upstreams"])
        asked = "".join(f"; decider {name} at {place}" for name, place in said["deciders"].items())
        console.data(
            "gateway",
            {"ready": True, **said},
            f"ready: the gateway listens at {', '.join(said['listen'])}: {upstreams}{asked}",
        )

    serve(file, on_ready=on_ready, until_eof=until_eof, realm=realm)
    console.say("stopped")


def _check(console: Console, settings: Any) -> None:
    from arx_caps.gateway.gateway import Gateway

    # On one machine `arx up --gateway` makes the service files: the rest of the file can be checked before.
    missing = {name: path for name in settings.tables if not (path := settings.service_file(name)).exists()}
    tables = {kind: _without(getattr(settings, kind), missing) for kind in ("upstreams", "deciders")}
    found = Gateway(settings._replace(**tables))
    rows = [_described(name, settings.upstreams[name], each) for name, each in found.upstreams.items()]
    asked = [_decider(name, settings.deciders[name], each.routes) for name, each in found.deciders.items()]
    lines = [line for row in [*rows, *asked] for line in _lines(row)]
    lines += [f"{name}  not checked: its service file {path} is missing" for name, path in missing.items()]
    left = [{"name": name, "service": str(path)} for name, path in missing.items()]
    console.data("gateway", {"upstreams": rows, "deciders": asked, "missing": left}, lambda: "\n".join(lines))
    if missing:
        console.hint("`arx up --gateway FILE` makes it beside the realm, `arx service enrol` elsewhere")
        click.get_current_context().exit(exit_codes.INCOMPLETE)


def _without(tables: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    return {name: terms for name, terms in tables.items() if name not in names}


def _described(name: str, terms: Any, running: Any) -> dict[str, Any]:
    kind = "http" if running.routes else "mcp"
    target = terms.url or " ".join(terms.command)
    row = {"name": name, "audience": terms.audience, "kind": kind, "target": target, "routes": running.routes}
    return row | {"isolation": running.upstream.isolation.kind} if terms.command else row


def _decider(name: str, terms: Any, routes: dict[str, str]) -> dict[str, Any]:
    return {"name": name, "audience": terms.audience, "kind": terms.kind, "target": terms.listen, "routes": routes}


def _lines(row: dict[str, Any]) -> list[str]:
    from arx_caps.gateway.base.settings import KINDS

    shown = row["name"] if row["kind"] in KINDS else f"/{row['name']}"
    first = f"{shown}  {row['kind']}  audience {row['audience']}  {row['target']}"
    if "isolation" in row:
        first += f"  isolation {row['isolation']}"
    return [first, *(f"  {route} -> {tool}" for route, tool in row["routes"].items())]
