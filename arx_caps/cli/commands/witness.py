# SPDX-License-Identifier: Apache-2.0
"""``arx witness``: cosign the checkpoints of audit logs, so that a log cannot show two histories.  LOG 1.6."""

import os
from pathlib import Path
from typing import Final

import click

from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, command_options
from arx_caps.cli.parse import read_key
from arx_caps.cli.terminal import Console, log_warnings
from arx_verifier.addresses import read_port

DEFAULT_LISTEN: Final = "127.0.0.1:8760"
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_folder = click.argument("directory", type=click.Path(file_okay=False, path_type=Path))


@click.group("witness", cls=Verbs)
def witness_command() -> None:
    """Cosign the checkpoints of audit logs, as a second party."""


@witness_command.command("init")
@_folder
@click.option("--name", required=True, help="name of the witness, such as witness.example.com/w1")
@command_options
def init_witness(console: Console, directory: Path, name: str) -> None:
    """Make a witness's folder and key, and print its public key."""
    from arx_caps.audit.merkle.errors import NoteError
    from arx_caps.audit.merkle.keys import make_key
    from arx_caps.audit.witness.witness import KEY_FILE

    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = make_key(directory / KEY_FILE, name)
    except NoteError as error:
        raise Stop(f"--name: {error}") from None
    console.data("witness", {"name": name, "key": str(key), "folder": str(directory)}, str(key))
    console.hint(f"give this key to the auditors; then run `arx witness serve {directory} --log VKEY`")


@witness_command.command("serve")
@_folder
@click.option(
    "--log",
    "logs",
    required=True,
    multiple=True,
    metavar="VKEY",
    help="public key of a log to cosign; repeatable, and of one log the last one signs now",
)
@click.option("--listen", default=DEFAULT_LISTEN, show_default=True, help="host:port at which the witness listens")
@click.option("--behind-tls", is_flag=True, help="listen beyond loopback, behind a proxy that terminates TLS")
@command_options
def serve_witness(console: Console, directory: Path, logs: tuple[str, ...], listen: str, behind_tls: bool) -> None:
    """Cosign each checkpoint that is consistent with the previous one, until SIGINT or SIGTERM.

    The first checkpoint of a log is trusted.  Keep the folder: it has the last checkpoint of each log.
    """
    from arx_caps.audit.merkle.note import LOG
    from arx_caps.audit.witness.server import serve
    from arx_caps.audit.witness.witness import Witness

    host, _, text = listen.rpartition(":")
    port = read_port(text)
    if not host or port is None:
        raise Stop(f"invalid --listen: expected host:port such as 127.0.0.1:8760, got {listen[:60]!r}")
    # As at the mint.  Checkpoints and cosignatures are signed in any case; TLS keeps names and sizes of logs private.
    if host.strip("[]") not in _LOOPBACK and not behind_tls:
        raise Stop(
            f"refused to serve plain HTTP at {host}: expected a loopback address",
            hint="give --behind-tls if a proxy terminates TLS",
        )
    log_warnings()
    witness = Witness(directory, [read_key(each, "--log", LOG) for each in logs])

    def on_ready(at: str) -> None:
        said = {"ready": True, "name": witness.key.name, "key": str(witness.key), "listen": at, "pid": os.getpid()}
        console.data("witness", said, f"ready: {witness.key.name} at {at}")
        console.hint(f"add this address and the key {witness.key} to `witnesses` in the log's realm.toml")

    serve(witness, host.strip("[]"), port, on_ready)
