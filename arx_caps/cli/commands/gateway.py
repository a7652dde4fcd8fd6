# SPDX-License-Identifier: Apache-2.0
"""``arx gateway``: run the gateway before tools that cannot embed a verifier, and accept what its servers changed."""

import difflib
import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, command_options, yes_option
from arx_caps.cli.terminal import Console, log_warnings, plain, table
from arx_caps.settings.durations import show_time


@click.group("gateway", cls=Verbs, default_verb="run", takes_file=True)
def gateway_command() -> None:
    """Run the gateway before tools that cannot embed a verifier; accept changed tools of its MCP servers.

    `arx gateway FILE` is `arx gateway run FILE`.
    """


@gateway_command.command("run")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--check",
    is_flag=True,
    help="read all files, print the upstreams, and end; exit code 3 if a service file is missing",
)
@click.option("--until-eof", is_flag=True, hidden=True, help="stop when standard input ends")
@click.option("--realm", hidden=True, type=click.Path(path_type=Path), help="folder of the realm that runs beside it")
@command_options
def run(console: Console, /, file: Path, check: bool, until_eof: bool, realm: Path | None) -> None:
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


@gateway_command.command("tools")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--upstream", "wanted", help="name of one upstream [all MCP servers]")
@click.option("--accept", "names", multiple=True, metavar="TOOL", help="accept the difference of this tool; repeatable")
@click.option("--accept-all", is_flag=True, help="accept the differences of all tools that are held")
@yes_option
@command_options
def tools(
    console: Console,
    /,
    file: Path,
    wanted: str | None,
    names: tuple[str, ...],
    accept_all: bool,
    yes: bool,
) -> None:
    """Print the tools of the MCP servers in FILE, and the difference of each that is held.

    A tool is accepted as its server lists it first.  If the server lists another description or schema later, the
    gateway holds the tool: it is in no list, and calls are refused (over_service_limit) until --accept accepts the
    difference that is shown.  The running gateway reads that by itself.

    \b
        arx gateway tools gateway.toml --accept read_text_file
    """
    from arx_caps.gateway.base.settings import read_settings
    from arx_caps.gateway.mcp.accepted_tools import accept, digest_of, read_tools

    settings = read_settings(file)
    servers = [name for name, terms in settings.upstreams.items() if not terms.is_http]
    if wanted is not None and wanted not in servers:
        raise click.UsageError(f"--upstream: expected an MCP server of {file} ({', '.join(servers) or 'none'})")
    chosen = servers if wanted is None else [wanted]
    found = {name: read_tools(settings.tools_file(name)).tools for name in chosen}
    rows = [_known(name, tool, known) for name, listed in found.items() for tool, known in sorted(listed.items())]
    held = {name: [row["tool"] for row in rows if row["upstream"] == name and row["held"]] for name in chosen}
    asked = {name: tuple(each for each in tools if accept_all or each in names) for name, tools in held.items()}
    if missing := [name for name in names if not any(name in each for each in asked.values())]:
        raise Stop(f"{missing[0][:96]!r} is not held", hint=f"`arx gateway tools {file}` lists the tools that are")
    if not any(asked.values()):
        console.data("gateway-tools", {"tools": rows}, lambda: _shown_tools(rows))
        return
    console.say("\n".join(row["difference"] for row in rows if row["tool"] in asked[row["upstream"]]))
    console.confirm(f"accept {sum(map(len, asked.values()))} changed tools, as shown?", yes=yes)
    for name, several in asked.items():
        if several:
            seen = {tool: digest_of(found[name][tool].listed or {}) for tool in several}
            accept(settings.tools_file(name), several, seen)
    accepted = [{"upstream": name, "tool": tool} for name, several in asked.items() for tool in several]
    text = "\n".join(f"accepted  {row['upstream']}  {plain(row['tool'])}" for row in accepted)
    console.data("gateway-tools-accepted", {"accepted": accepted}, text)


def _known(upstream: str, tool: str, known: Any) -> dict[str, Any]:
    """Return a tool as a row; the difference of one that is held is text that no character of it can rewrite."""
    row = {"upstream": upstream, "tool": tool, "held": known.listed is not None, "accepted_at": known.at}
    if known.listed is None:
        return row | {"definition": known.accepted}
    before, after = [json.dumps(each, indent=2, sort_keys=True).splitlines() for each in (known.accepted, known.listed)]
    heads = f"{tool}, accepted {show_time(known.at)}", f"{tool}, listed {show_time(known.listed_at)}"
    lines = difflib.unified_diff(before, after, *heads, n=2, lineterm="")
    difference = "\n".join(plain(line.rstrip("\n")) for line in lines)
    row |= {"listed_at": known.listed_at, "definition": known.accepted, "listed": known.listed}
    return row | {"difference": difference}


def _shown_tools(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no tool is known yet: each is accepted as its server lists it first"
    cells = [
        (row["upstream"], row["tool"], "held" if row["held"] else "accepted", show_time(row["accepted_at"]))
        for row in rows
    ]
    shown = [table(("UPSTREAM", "TOOL", "STATE", "ACCEPTED"), cells)]
    return "\n\n".join([*shown, *[row["difference"] for row in rows if row["held"]]])


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
    shown = {route: each if isinstance(each, str) else each.tool or "refused" for route, each in running.routes.items()}
    row = {"name": name, "audience": terms.audience, "kind": kind, "target": target, "routes": shown}
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
