# SPDX-License-Identifier: Apache-2.0
"""``arx completion``: a shell's completion script."""

import click
from click.shell_completion import get_completion_class

from arx_caps.cli.options import command_options
from arx_caps.cli.terminal import Console

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@command_options
def completion_command(console: Console, shell: str) -> None:
    """Print the completion script of a shell.

    \b
        arx completion bash >> ~/.bashrc
    """
    made = get_completion_class(shell)
    assert made is not None
    script = made(click.get_current_context().find_root().command, {}, "arx", "_ARX_COMPLETE").source()
    console.data("completion", {"shell": shell, "script": script}, script.rstrip("\n"))
