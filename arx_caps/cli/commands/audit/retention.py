# SPDX-License-Identifier: Apache-2.0
"""``arx audit prune`` and ``arx audit erase``: what may go, goes, and every proof still holds.  LOG 1.9."""

from typing import Final

import click

from arx_caps.cli.commands.audit.question import Since
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import common_options, pass_console, yes_option
from arx_caps.cli.place import Place, operator_options
from arx_caps.cli.terminal import Console, Progress, pairs
from arx_caps.durations import show_time
from arx_caps.revocation import parse_target
from arx_verifier.errors import RequestError
from arx_verifier.token import subject_target

TIMEOUT_S: Final = 3600.0  # millions of records are written over, one by one

_reason_option = click.option("--reason", required=True, help="why; it is recorded, so name no person in it")


@click.command("prune")
@click.option(
    "--before", type=Since(), required=True, help="records that came before then: a time, or how long ago: 90d"
)
@_reason_option
@yes_option
@operator_options
@common_options
@pass_console
def prune_command(console: Console, place: Place, before: int, reason: str, yes: bool) -> None:
    """Take old records out of the log, in whole blocks of 256, and leave their hashes: every proof still holds.

    What was exported or proven before stays what it is; the log's files are then checked with
    `arx audit verify --from`.
    """
    console.confirm(f"take all records from before {show_time(before)} out of the log, for good?", yes=yes)
    with Progress(console, "the mint is at it"):
        answer = place.mint(TIMEOUT_S).call("POST", "/v1/audit/prune", {"before": before, "reason": reason})
    shown = [("taken out", f"{answer['pruned']} records"), ("first record left", answer["first"])]
    console.data("audit-pruned", answer, lambda: pairs(shown))


@click.command("erase")
@click.option("--subject", "target", help="whose: a target, subject:…, as `arx session show` has it")
@click.option("--person", nargs=2, metavar="ISSUER SUBJECT", help="whose: as the identity provider names them")
@click.option("--before", type=Since(), help="instead: all bodies of records that came before then")
@_reason_option
@yes_option
@operator_options
@common_options
@pass_console
def erase_command(
    console: Console,
    place: Place,
    target: str | None,
    person: tuple[str, str] | None,
    before: int | None,
    reason: str,
    yes: bool,
) -> None:
    """Erase what the log and the mint tell of a person: the records stay, and every proof still holds.

    Gone are names, addresses, request ids, argument values and what makes guessing them possible; in the mint's
    database also purposes and parameters.  What runs on their behalf is to be ended before.  Copies, backups and
    journals that are not shipped yet are not reached from here.
    """
    if sum(each is not None for each in (target, person, before)) != 1:
        raise click.UsageError("say whose: --subject, --person or --before, one of them")
    if person is not None:
        target = subject_target(*person)
    elif target is not None and not _names_a_person(target):
        raise Stop(
            f"{target[:60]!r} names no subject; one looks like subject:…",
            hint="`arx session show` has it; or name them as their identity provider does: --person ISSUER SUBJECT",
        )
    what = f"all that is told of {target}" if target is not None else f"all bodies from before {show_time(before or 0)}"
    console.confirm(f"erase {what}, for good?", yes=yes)
    body = {"subject": target, "before": before, "reason": reason}
    with Progress(console, "the mint is at it"):
        answer = place.mint(TIMEOUT_S).call("POST", "/v1/audit/erase", body)
    rows = [
        ("records of the log", f"{answer['erased']} bodies"),
        ("sessions of the mint", answer["sessions"]),
        ("its events", answer["events"]),
    ]
    console.data("audit-erased", answer, lambda: pairs(rows))


def _names_a_person(target: str) -> bool:
    try:
        return parse_target(target).kind == "subject"
    except RequestError:
        return False
