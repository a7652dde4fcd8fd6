# SPDX-License-Identifier: Apache-2.0
"""``arx up``: run store, ledger and mint of a realm in the foreground."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from arx_caps.cli.access.place import Place, ledger_url, realm_dir_option, store_url
from arx_caps.cli.access.secure_files import passphrase_option, read_passphrase
from arx_caps.cli.options import command_options
from arx_caps.cli.terminal import Console, log_warnings
from arx_caps.http.process import hide_memory
from arx_caps.settings.realm import Realm

if TYPE_CHECKING:
    from arx_caps.cli.gateway_process import GatewayProcess

_PROGRAM: Final = "arx_caps.console.serve"  # serves the mint with its console


@click.command("up")
@click.option("--host", help="address at which the mint listens [from realm.toml]")
@click.option("--port", type=click.IntRange(0, 65535), help="port at which the mint listens [from realm.toml]")
@click.option("--behind-tls", is_flag=True, help="listen beyond loopback, behind a proxy that terminates TLS")
@click.option(
    "--gateway",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="run the gateway of this TOML file too",
)
@passphrase_option
@realm_dir_option
@command_options
def up_command(
    console: Console, /, realm_dir: Path, passphrase_file: str | None, gateway: Path | None, **options: Any
) -> None:
    """Run the realm's revocation store, ledger and mint until Ctrl-C or SIGTERM; stdout has a line when they run.

    It runs no store if realm.toml names one, and a ledger only if it names neither.  A server that fails is started
    again.  At the end all stop in order, and no data is lost.  With --gateway, the
    services of its upstreams are enrolled, and the gateway (see `arx gateway`) runs beside the mint.  SIGHUP reads the
    policy and the gateway's file again, unless a terminal has started it.
    """
    from arx_caps.mint.server.supervise import Supervisor, run_until_signal

    # The mint is another process: this one neither loads it nor finds that a part of it is missing.
    if find_spec("starlette") is None:
        raise ModuleNotFoundError(name="starlette")

    log_warnings()
    hide_memory()
    realm = Realm.open(realm_dir)
    # The operator's own URLs may contain a password.
    store = store_url(realm) if realm.store is None else None
    ledger = ledger_url(realm) if realm.runs_ledger else None
    beside = None if gateway is None else _beside(gateway, Place(realm_dir), console)
    announced: list[int] = []  # the mint is ready again after each restart; only the first is a result

    def on_ready(said: dict[str, Any]) -> None:
        if announced:
            console.say(f"restarted the mint (pid {said.get('pid')})")
        else:
            facts = f"realm {realm.name}, mint {realm.issuer}, folder {realm.folder}"
            console.data(
                "up", said | {"folder": str(realm.folder), "store": store, "ledger": ledger}, f"ready: {facts}"
            )
            if beside is not None:
                beside.start()
        announced.append(1)

    # The gateway stops first: its last calls need the store, and its last records the mint.
    stop_beside = beside.stop if beside is not None else lambda: None
    # The mint reads the variables itself: a passphrase from a file or a command is then in no environment.
    passphrase = read_passphrase(passphrase_file) if passphrase_file else None
    try:
        supervisor = Supervisor(
            realm, passphrase=passphrase, on_ready=on_ready, on_stop=stop_beside, program=_PROGRAM, **options
        )
        run_until_signal(supervisor, beside.reload if beside is not None else lambda: None)
    finally:
        stop_beside()
    console.say("stopped")


def _beside(file: Path, place: Place, console: Console) -> "GatewayProcess":
    from arx_caps.cli.gateway_process import GatewayProcess  # imported on use: it enrols, and so calls the mint

    return GatewayProcess(file, place, console)
