# SPDX-License-Identifier: Apache-2.0
"""``arx audit prune`` and ``arx audit erase``: delete old records and personal data; proofs stay valid.  LOG 1.9."""

from typing import Final

import click

from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import reason_option, yes_option
from arx_caps.cli.parse import Since
from arx_caps.cli.terminal import Console, Progress, pairs
from arx_caps.revocation.targets import parse_target
from arx_caps.settings.durations import show_time
from arx_verifier.errors import RequestError
from arx_verifier.token.targets import subject_target

TIMEOUT_S: Final = 3600.0  # millions of records are overwritten one by one


@click.command("prune")
@click.option(
    "--before", type=Since(), required=True, help="time before which records are pruned, or an age such as 90d"
)
@reason_option
@yes_option
@operator_options
def prune_command(console: Console, place: Place, before: int, reason: str, yes: bool) -> None:
    """Delete old records from the log, in blocks of 256; their hashes stay, so every proof stays valid.

    Earlier exports and proofs stay valid.  Verify the log's files with `arx audit verify --from`.
    """
    console.confirm(f"delete all records from before {show_time(before)} for good?", yes=yes)
    with Progress(console, "the mint is working"):
        answer = place.mint(TIMEOUT_S).call("POST", "/v1/audit/prune", {"before": before, "reason": reason})
    shown = [("pruned", f"{answer['pruned']} records"), ("first record left", answer["first"])]
    console.data("audit-pruned", answer, lambda: pairs(shown))


@click.command("erase")
@click.option("--subject", "target", help="subject to erase, as a target: subject:… (`arx session show`)")
@click.option("--person", nargs=2, metavar="ISSUER SUBJECT", help="subject to erase, as the identity provider names it")
@click.option(
    "--before", type=Since(), help="erase the bodies of all records before this time, or of this age such as 90d"
)
@reason_option
@yes_option
@operator_options
def erase_command(
    console: Console,
    place: Place,
    target: str | None,
    person: tuple[str, str] | None,
    before: int | None,
    reason: str,
    yes: bool,
) -> None:
    """Erase a person's data from the log and the mint; the records stay, and every proof stays valid.

    Erases names, addresses, request ids, argument values and the salts of their digests; in the mint's database also
    purposes and parameters.  End the person's sessions first.  Copies, backups and unshipped journals are not erased.
    """
    if sum(each is not None for each in (target, person, before)) != 1:
        raise click.UsageError("expected one of --subject, --person and --before")
    if person is not None:
        target = subject_target(*person)
    elif target is not None and not _names_a_person(target):
        raise Stop(
            f"invalid --subject: expected subject:…, got {target[:60]!r}",
            hint="`arx session show` shows it; or give --person ISSUER SUBJECT, as the identity provider names them",
        )
    what = f"all data of {target}" if target is not None else f"all bodies from before {show_time(before or 0)}"
    # Nothing can bring erased data back, so the question names it.
    console.confirm(f"erase {what}, for good?", yes=yes)
    body = {"subject": target, "before": before, "reason": reason}
    with Progress(console, "the mint is working"):
        answer = place.mint(TIMEOUT_S).call("POST", "/v1/audit/erase", body)
    rows = [
        ("log", f"{answer['erased']} bodies of records"),
        ("mint", f"{answer['sessions']} sessions, {answer['events']} events"),
    ]
    console.data("audit-erased", answer, lambda: pairs(rows))


def _names_a_person(target: str) -> bool:
    try:
        return parse_target(target).kind == "subject"
    except RequestError:
        return False
