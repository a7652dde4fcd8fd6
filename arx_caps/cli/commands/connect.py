# SPDX-License-Identifier: Apache-2.0
"""``arx connect``: sign the messages of a stock MCP client with a task."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from arx_caps.cli.access.credentials import holder_key_option, read_holder_key
from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.options import command_options
from arx_caps.cli.terminal import Console
from arx_verifier.clock import now_ms

_CLIENTS: Final = ("claude", "claude-code", "codex", "cursor", "vscode")


@click.command("connect")
@click.argument("url", metavar="URL")
@click.option(
    "--task",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="file of the task's bundle, mode 0600; a bundle that replaces it is used from the next message on",
)
@holder_key_option
@click.option("--only", multiple=True, metavar="TOOL", help="tool to keep, such as orders.get; repeatable [all tools]")
@click.option("--audience", help="service that the URL is of, if several have its origin")
@click.option(
    "--print-config", "client", type=click.Choice(_CLIENTS), help="print what the client's configuration file needs"
)
@command_options
def connect_command(
    console: Console,
    /,
    url: str,
    file: Path,
    holder_key: Path | None,
    only: tuple[str, ...],
    audience: str | None,
    client: str | None,
) -> None:
    """Bridge a stock MCP client to the server at URL, and sign each message with a task.

    The client starts this command and speaks MCP over stdin and stdout; messages for people go to stderr.

    \b
        arx connect --task task.bundle --only orders.get https://orders.example/mcp
        arx connect --task task.bundle --print-config cursor https://orders.example/mcp
    """
    from arx_caps.connect.bundle_file import BundleFile
    from arx_caps.connect.client_config import bridge_command
    from arx_caps.connect.server_access import ServerAccess
    from arx_caps.connect.stdio import serve_stdio

    logging.basicConfig(level=logging.WARNING, format="arx connect: %(message)s")
    bundle = BundleFile(file, only, read_holder_key(holder_key))
    bundle.task.check_key()  # here, and not at the client's first call
    server = ServerAccess(url, bundle, audience)
    if client is not None:
        command = bridge_command(file, url, only, audience, holder_key)
        _print_config(console, client, server.audience, command)
        return
    if bundle.task.expires_at <= now_ms():
        hint = f"start a task, or extend it, with `--out {file}`"
        raise Stop(f"{file}: the task has expired", DENIED, code="expired", hint=hint)
    serve_stdio(server)


def _print_config(console: Console, client: str, name: str, command: Sequence[str]) -> None:
    from arx_caps.connect.client_config import CLIENT_CONFIGS

    config = CLIENT_CONFIGS[client]
    entry = config.entry(name, command)
    console.data("connect_config", {"client": client, "config": entry}, config.text(entry))
    console.hint(f"add it to {config.file}, and restart the client")
