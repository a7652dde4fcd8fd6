# SPDX-License-Identifier: Apache-2.0
"""``arx policy``: read a policy file as the mint does."""

import click

from arx_caps.cli.exits import DENIED, Stop
from arx_caps.cli.frame import common_options, pass_console
from arx_caps.cli.output import Console, pairs
from arx_verifier.errors import SettingsError


@click.group("policy")
def policy_command() -> None:
    """Check a policy file."""


@policy_command.command("check")
@click.argument("file", type=click.Path())
@common_options
@pass_console
def check(console: Console, file: str) -> None:
    """Check a policy file; the first mistake is told with line and key, and exits with 1."""
    from arx_caps.mint.policy import Policy

    try:
        policy = Policy.load(file)
    except SettingsError as error:
        raise Stop(str(error), DENIED, code=error.code) from error
    value = {
        "digest": policy.digest,
        "audiences": sorted(policy.audiences),
        "sessions": sorted(policy.sessions),
        "tasks": sorted(policy.templates),
    }
    shown = [(name, ", ".join(said) if isinstance(said, list) else said) for name, said in value.items()]
    console.data("policy", value, lambda: pairs(shown))
