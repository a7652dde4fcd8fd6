# SPDX-License-Identifier: Apache-2.0
"""``arx connect``: sign the messages of a stock MCP client with a task."""

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from arx_caps.cli.access.credentials import holder_key_option, read_holder_key
from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.options import command_options
from arx_caps.cli.terminal import Console
from arx_verifier.clock import now_ms

if TYPE_CHECKING:
    from arx_caps.connect.server_access import ServerAccess

_CLIENTS: Final = ("claude", "claude-code", "codex", "cursor", "vscode")
_NAMED: Final = re.compile(r"([a-z0-9_-]{1,64})=(.+)")
_PATH: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@click.command("connect")
@click.argument("urls", nargs=-1, required=True, metavar="URL [NAME=URL]...")
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
@click.option("--listen", metavar="HOST:PORT", help="serve HTTP clients at this loopback address; port 0: any [stdio]")
@click.option("--path", help="first part of the paths of --listen; other users may read it here [a random secret]")
@command_options
def connect_command(
    console: Console,
    /,
    urls: tuple[str, ...],
    file: Path,
    holder_key: Path | None,
    only: tuple[str, ...],
    audience: str | None,
    client: str | None,
    listen: str | None,
    path: str | None,
) -> None:
    """Bridge a stock MCP client to the server at URL, and sign each message with a task.

    The client starts this command and speaks MCP over stdin and stdout; messages for people go to stderr.

    With --listen, the command runs until it is stopped: HTTP clients of this machine use the addresses that it prints,
    one for each URL.  NAME is the last part of an address [the service's name].

    \b
        arx connect --task task.bundle --only orders.get https://orders.example/mcp
        arx connect --task task.bundle --print-config cursor https://orders.example/mcp
        arx connect --task task.bundle --listen 127.0.0.1:0 https://orders.example/mcp docs=https://docs.example/mcp
    """
    from arx_caps.connect.bundle_file import BundleFile
    from arx_caps.connect.client_config import bridge_command
    from arx_caps.connect.server_access import ServerAccess
    from arx_caps.connect.stdio import serve_stdio

    logging.basicConfig(level=logging.WARNING, format="arx connect: %(message)s")
    if listen is not None and client is not None:
        raise click.UsageError("--print-config is for stdio: give an HTTP client an address that --listen prints")
    if listen is None and (len(urls) > 1 or path is not None):
        raise click.UsageError("several URLs, and --path, need --listen")
    if path is not None and not _PATH.fullmatch(path):
        raise click.BadParameter("expected at most 64 characters of A-Z, a-z, 0-9, - and _", param_hint="--path")
    bundle = BundleFile(file, only, read_holder_key(holder_key))
    bundle.task.check_key()  # here, and not at the client's first call
    servers: dict[str, ServerAccess] = {}
    for each in urls:
        named = _NAMED.fullmatch(each) if listen is not None else None
        server = ServerAccess(each if named is None else named[2], bundle, audience)
        name = server.audience if named is None else named[1]
        if name in servers:
            raise click.UsageError(f"two servers are called {name}: name one of them, NAME=URL")
        servers[name] = server
    if client is not None:
        command = bridge_command(file, urls[0], only, audience, holder_key)
        _print_config(console, client, server.audience, command)
        return
    if bundle.task.expires_at <= now_ms():
        hint = f"start a task, or extend it, with `--out {file}`"
        raise Stop(f"{file}: the task has expired", DENIED, code="expired", hint=hint)
    if listen is None:
        serve_stdio(server)
    else:
        _serve_http(console, listen, path, servers)


def _serve_http(console: Console, listen: str, path: str | None, servers: "Mapping[str, ServerAccess]") -> None:
    from arx_caps.connect.loopback import LoopbackApp, bind_loopback, serve_loopback

    with bind_loopback(listen) as listener:
        host, port = listener.getsockname()[:2]
        app = LoopbackApp(servers, port, path)
        place = f"http://{f'[{host}]' if ':' in host else host}:{port}/{app.path}"
        addresses = {name: f"{place}/{name}" for name in servers}

        def on_ready() -> None:
            console.data("connect", {"servers": addresses}, "\n".join(addresses.values()))
            sys.stdout.flush()

        serve_loopback(listener, app, on_ready)
    console.say("stopped")


def _print_config(console: Console, client: str, name: str, command: Sequence[str]) -> None:
    from arx_caps.connect.client_config import CLIENT_CONFIGS

    config = CLIENT_CONFIGS[client]
    entry = config.entry(name, command)
    console.data("connect_config", {"client": client, "config": entry}, config.text(entry))
    console.hint(f"add it to {config.file}, and restart the client")
