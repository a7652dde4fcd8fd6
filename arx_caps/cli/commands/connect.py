# SPDX-License-Identifier: Apache-2.0
"""``arx connect``: sign the messages of a stock MCP client with a task."""

import json
import logging
from pathlib import Path

import click

from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.terminal import Console

_CLIENTS = ("claude", "vscode", "cursor")


@click.command("connect")
@click.argument("url")
@click.option(
    "--task",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="file of the task's bundle, mode 0600; a bundle that replaces it is used from the next message on",
)
@click.option("--only", multiple=True, metavar="TOOL", help="tool to keep, such as orders.get; repeatable [all tools]")
@click.option("--audience", help="service that the URL is of, if several have its origin")
@click.option(
    "--print-config", "client", type=click.Choice(_CLIENTS), help="print what the client's configuration file needs"
)
@common_options
@pass_console
def connect_command(
    console: Console, /, url: str, file: Path, only: tuple[str, ...], audience: str | None, client: str | None
) -> None:
    """Bridge a stock MCP client to the server at URL, and sign each message with a task.

    The client starts this command and speaks MCP over stdin and stdout; messages for people go to stderr.

    \b
        arx connect --task task.bundle --only orders.get https://orders.example/mcp
        arx connect --task task.bundle --print-config cursor https://orders.example/mcp
    """
    from arx_caps.agent.task import now_ms
    from arx_caps.connect.bundle_file import BundleFile
    from arx_caps.connect.server_access import ServerAccess
    from arx_caps.connect.stdio import serve_stdio

    logging.basicConfig(level=logging.WARNING, format="arx connect: %(message)s")
    bundle = BundleFile(file, only)
    server = ServerAccess(url, bundle, audience)
    if client is not None:
        _print_config(console, client, server.audience, file, url, only, audience)
        return
    if bundle.task.expires_at <= now_ms():
        hint = f"start a task, or extend it, with `--out {file}`"
        raise Stop(f"{file}: the task has expired", DENIED, code="expired", hint=hint)
    serve_stdio(server)


def _print_config(
    console: Console, client: str, name: str, file: Path, url: str, only: tuple[str, ...], audience: str | None
) -> None:
    from arx_caps.connect.client_config import CLIENT_CONFIGS, bridge_command

    config = CLIENT_CONFIGS[client]
    entry = config.entry(name, bridge_command(file, url, only, audience))
    console.data("connect_config", {"client": client, "config": entry}, json.dumps(entry, indent=2))
    console.hint(f"add it to {config.file}, and restart the client")
