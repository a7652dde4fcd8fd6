# SPDX-License-Identifier: Apache-2.0
"""``arx apply``: enrol and invite the services of a file.  CONTROL 3."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click

from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.access.place import ROOT_UID, Place, operator_options
from arx_caps.cli.access.secure_files import write_object
from arx_caps.cli.commands.apply.plan import PlannedService, ServicesPlan, make_plan, read_invitation
from arx_caps.cli.commands.apply.services_file import load_services
from arx_caps.cli.exit_codes import INCOMPLETE, OK, Stop, exit_of
from arx_caps.cli.options import yes_option
from arx_caps.cli.resources import INVITATIONS, SERVICES
from arx_caps.cli.terminal import Console, Progress
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError

WRITE: Final = "arx.services.write"
SIGN_IN_S: Final = 300.0  # an operator's token lives for ten minutes; thousands of services take longer
NAMED: Final = 10  # services in a hint


class Done(NamedTuple):
    """What a run did: the services that the policy in force does not have, and how many invitations it wrote."""

    lacking: list[str]
    invitations: int


@click.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="folder for an invitation (mode 0600) of each service without a key of its own [none is made]",
)
@click.option("--check", is_flag=True, help="only show the plan; exit with 3 if something would change")
@yes_option
@operator_options
def apply_command(console: Console, place: Place, file: str, out: Path | None, check: bool, yes: bool) -> None:
    """Enrol and invite the services of FILE, a table [service.NAME] for each; a repeat does what is left.

    It prints its plan and asks for confirmation.  Marks: + the service is added, ~ it gets an invitation, = nothing is
    to be done.  A service that the file does not name is left alone.  Each invitation is valid once, for 15 minutes.

    \b
        arx apply services.toml --out invitations
    """
    wanted = load_services(file)
    mint = place.mint()
    rows, _ = SERVICES.rows(mint)
    plan = make_plan(wanted, rows, out=out, issuer=mint.issuer, now_ms=now_ms())
    if not console.json:
        console.raw(plan.text())
    lacking, done = [str(row["audience"]) for row in rows if not row["in_policy"]], Done([], 0)
    if plan.work and not check:
        _require_allowed(mint, plan.work)
        console.confirm(_question(plan, out), yes=yes)
        done = _carry_out(console, place, plan.work, out)
        lacking += done.lacking
    _report(console, plan, done.invitations, check=check, file=file)
    names = {service.audience for service in plan.services if service.terms is not None}
    _hint_policy(console, [audience for audience in dict.fromkeys(lacking) if audience in names])
    click.get_current_context().exit(INCOMPLETE if check and plan.work else OK)


def _require_allowed(mint: Caller, work: Sequence[PlannedService]) -> None:
    """Require that the operator's role allows every service of the plan, so that none is done before a refusal.

    Raises:
        Stop: The refusal that the mint would give.
    """
    from arx_caps.mint.identity.operator_token import require_rules_allow
    from arx_verifier.constraints.rule import Rule, read_rule

    answer = mint.call("GET", "/v1/whoami")
    written = answer.get("rules")
    rules = (
        [Rule(tool=action) for action in answer["may"]] if written is None else [read_rule(rule) for rule in written]
    )
    for service in work:
        try:
            require_rules_allow(f"role {answer['role']}", rules, WRITE, {"audience": service.audience})
        except ArxError as error:
            hint = "`arx whoami` shows the permissions of this key"
            raise Stop(f"{error}; nothing was done", exit_of(error), hint=hint, code=error.code) from error


def _question(plan: ServicesPlan, out: Path | None) -> str:
    count, invitations = plan.counts, sum(service.invites for service in plan.work)
    parts = [f"enrol {_number(count['add'], 'service')}"] if count["add"] else []
    invitations += sum(service.outdated for service in plan.work)
    parts += [f"write {_number(invitations, 'invitation')} to {out}"] if invitations else []
    return f"{' and '.join(parts)}?"


def _carry_out(console: Console, place: Place, work: Sequence[PlannedService], out: Path | None) -> Done:
    """Enrol and invite.

    Raises:
        Stop: A service could not be enrolled or invited; the message has how many were.
    """
    lacking: list[str] = []
    invitations = 0
    mint, signed_in = place.mint(), time.monotonic()
    with _folder(console, out), Progress(console, noun="services") as progress:
        for done, service in enumerate(work):
            progress.show(done, len(work))
            try:
                if time.monotonic() - signed_in > SIGN_IN_S:
                    mint, signed_in = place.mint(), time.monotonic()
                shown = mint.call("PUT", SERVICES.path_of(service.audience))
                invitations += not shown["keys"] and _invite(mint, service)
            except Stop as error:
                what = f"service {service.audience}: {error}; {done} of {len(work)} services are done"
                hint = "run the same command again: it goes on where it stopped"
                hint = f"{error.hint}; {hint}" if error.hint else hint
                raise Stop(what, INCOMPLETE if done else error.exit_code, hint=hint, code=error.code) from error
            lacking += [] if shown["in_policy"] else [service.audience]
    return Done(lacking, invitations)


def _invite(mint: Caller, service: PlannedService) -> bool:
    """Write the invitation of a service that has no key of its own; return whether one was written."""
    if service.file is None or service.terms is None:
        return False
    # Looked at again: another run may have been here since the plan was made.
    found = read_invitation(service.file, service.audience, mint.issuer, now_ms())
    if found is not None and service.terms.is_in(found):
        return False
    if found is None:
        found = mint.call("POST", INVITATIONS, {"audience": service.audience})
    facts = {name: value for name, value in found.items() if name not in ("store", "journal")}
    write_object(service.file, facts | service.terms.invited())  # a secret, and in no output
    return True


@contextlib.contextmanager
def _folder(console: Console, out: Path | None) -> Iterator[None]:
    """Make the folder of the invitations, and let one run at a time write there."""
    if out is None:
        yield
        return
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Stop(f"{out}: {error.strerror}", code="file") from error
    try:
        found = os.fstat(descriptor)
        # An attacker that replaces an invitation there sends a service to a mint of their own.
        if found.st_uid not in (os.geteuid(), ROOT_UID) or found.st_mode & 0o022:
            own = "expected a folder that other users cannot write to"
            raise Stop(f"{out}: {own}", hint="run `chmod go-w` on it, or name another folder with --out", code="file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"another `arx apply` writes to {out}: waiting for its end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _report(console: Console, plan: ServicesPlan, invitations: int, *, check: bool, file: str) -> None:
    work, count = plan.work, plan.counts
    value = {"file": file, "check": check, "changes": len(work)} | count
    value |= {"invitations": invitations, "services": [service.shown() for service in plan.services]}
    ended = (
        "nothing to do" if not work else f"done: {count['add']} enrolled, {_number(invitations, 'invitation')} written"
    )
    console.data("services-applied", value, "" if check and work else ended)
    waits = next((service for service in plan.services if service.file is not None), None)
    if not check and waits is not None:
        console.hint(
            f"carry each invitation to its service: `arx service enrol --invitation {waits.file} …`, within 15 minutes"
        )


def _hint_policy(console: Console, lacking: Sequence[str]) -> None:
    if lacking:
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        names = ", ".join(f"[audience.{audience}]" for audience in lacking[:NAMED])
        console.hint(f"add to the policy, or no task gets a token for the service: {names}{more}")
