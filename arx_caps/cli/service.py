# SPDX-License-Identifier: Apache-2.0
"""``arx service``: enrol a tool service and write the file it verifies with.  SPEC 9, 15."""

from pathlib import Path

import click

from arx_caps.cli.files import write_object
from arx_caps.cli.frame import common_options, pass_console
from arx_caps.cli.output import Console, pairs
from arx_caps.cli.place import Place, operator_options
from arx_verifier.names import is_audience


@click.group("service")
def service_command() -> None:
    """Enrol tool services."""


@service_command.command("enrol")
@click.argument("audience")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="the service's file, a secret (mode 0600)")
@operator_options
@common_options
@pass_console
def enrol(console: Console, audience: str, out: Path, place: Place) -> None:
    """Enrol the tool service AUDIENCE and write its keys to a file; a repeat writes the same keys."""
    if not is_audience(audience):
        raise click.BadParameter(f"{audience[:60]!r} is not a service's name such as orders", param_hint="AUDIENCE")
    answer = place.mint().call("POST", "/v1/services", {"audience": audience})
    file = answer.get("service", answer)
    write_object(out, file)
    kids = sorted(file.get("keys", {}))
    value = {"audience": audience, "file": str(out), "keys": kids, "realm": file.get("realm")}
    console.data("service", value, lambda: pairs([("service", audience), ("file", out), ("keys", ", ".join(kids))]))
