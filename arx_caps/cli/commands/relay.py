# SPDX-License-Identifier: Apache-2.0
"""``arx relay``: one follower of the store for the verifiers of a host or a data centre.  SPEC 10.7."""

from typing import Any

import click

from arx_caps.cli.access.place import Place, store_options
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import metrics_option
from arx_caps.cli.terminal import Console, log_warnings

_file = click.Path(dir_okay=False)


@click.command("relay")
@click.option("--listen", required=True, help="address for followers: unix:///PATH, or HOST:PORT with a password")
@click.option("--name", help="name of this relay in reports of kills [the host's name]")
@click.option("--tls-cert", type=_file, help="PEM file of the certificate, required beyond loopback")
@click.option("--tls-key", type=_file, help="PEM file of the certificate's key")
@metrics_option
@store_options
def relay_command(
    console: Console,
    /,
    place: Place,
    listen: str,
    name: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    metrics: str | None,
) -> None:
    """Follow the store, or another relay as --store, on behalf of many verifiers, until SIGINT or SIGTERM.

    Set "store" in the service files to relay+unix:///PATH, relay://HOST:PORT or relays://HOST:PORT (TLS); several
    relays are relays://HOST:PORT,HOST:PORT.  A TCP port requires the password in ARX_RELAY_PASSWORD; verifiers send the
    one in ARX_STORE_PASSWORD.
    """
    from arx_caps.relay.serve import serve
    from arx_verifier.revocation.password import find_password

    if (tls_cert is None) != (tls_key is None):
        raise Stop("expected both --tls-cert and --tls-key, got one of them", code="usage")
    log_warnings()
    # A relay follows as a verifier does, and grants no more than its own lease: SPEC 10.7.
    store, realm = place.followed()

    def on_ready(said: dict[str, Any]) -> None:
        console.data("relay", said, f"ready: {said['name']} follows realm {realm} and listens at {said['listen']}")

    serve(
        store,
        realm,
        listen,
        name=name,
        store_password=find_password("ARX_STORE_PASSWORD"),
        password=find_password("ARX_RELAY_PASSWORD"),
        ca=place.ca(),
        certificate=None if tls_cert is None or tls_key is None else (tls_cert, tls_key),
        metrics=metrics,
        on_ready=on_ready,
    )
    console.say("stopped")
