# SPDX-License-Identifier: Apache-2.0
"""``arx relay``: one follower for all verifiers of a host or a data centre.  SPEC 10.7."""

import logging
import os
import sys
from typing import Any

import click

from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.place import Place, store_options
from arx_caps.cli.terminal import Console

_file = click.Path(dir_okay=False)


@click.command("relay")
@click.option("--listen", required=True, help="where followers connect: unix:///PATH, or HOST:PORT with a password")
@click.option("--name", help="how reports of kills name this relay; else the host's name")
@click.option("--tls-cert", type=_file, help="certificate for a TCP port; needed beyond loopback")
@click.option("--tls-key", type=_file, help="the certificate's key")
@store_options
@common_options
@pass_console
def relay_command(
    console: Console, /, place: Place, listen: str, name: str | None, tls_cert: str | None, tls_key: str | None
) -> None:
    """Follow the store (or, as --store, another relay) once, for many verifiers: they follow the relay.

    A service file's "store" is then relay+unix:///PATH, relay://HOST:PORT or relays://HOST:PORT (TLS).  A TCP port asks
    for the password in ARX_RELAY_PASSWORD; verifiers find it in ARX_STORE_PASSWORD.  Ctrl-C or SIGTERM ends it.
    """
    from arx_caps.relay import serve

    if (tls_cert is None) != (tls_key is None):
        raise Stop("--tls-cert and --tls-key go together", code="usage")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    store, realm = place.followed()

    def on_ready(said: dict[str, Any]) -> None:
        console.data("relay", said, f"ready: {said['name']} follows realm {realm} and listens at {said['listen']}")
        sys.stdout.flush()

    serve(
        store,
        realm,
        listen,
        name=name,
        store_password=os.environ.get("ARX_STORE_PASSWORD"),
        password=os.environ.get("ARX_RELAY_PASSWORD"),
        ca=place.ca(),
        certificate=None if tls_cert is None or tls_key is None else (tls_cert, tls_key),
        on_ready=on_ready,
    )
    console.say("stopped")
