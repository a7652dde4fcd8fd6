# SPDX-License-Identifier: Apache-2.0
"""``arx redis``: prepare your own stores, once, as their administrator: users and functions.  SPEC 10, 17.5."""

from contextlib import closing
from pathlib import Path
from typing import Final

import click

from arx_caps.cli.access.place import Place, ledger_url, realm_dir_option, store_options
from arx_caps.cli.access.secure_files import read_text, write_private
from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.options import Verbs, command_options, yes_option
from arx_caps.cli.terminal import Console
from arx_caps.revocation import acl
from arx_caps.settings.durations import show_time
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.revocation.password import find_password

MAX_CLOCK_MS: Final = 5_000


@click.group("redis", cls=Verbs)
def redis_command() -> None:
    """Prepare your own revocation store and ledger: users, functions, and a ledger whose clock was ahead."""


@redis_command.command("acl")
@click.option("--role", type=click.Choice(acl.ROLE_NAMES), required=True, help="role whose permissions the user gets")
@click.option("--user", help="name of the user [arx-ROLE-REALM]")
@click.option("--password-file", type=click.Path(), help="file with the user's password, `-` for stdin")
@click.option("--new-password", type=click.Path(path_type=Path), help="new file for a random password (mode 0600)")
@click.option("--cluster", is_flag=True, help="roles of the ledger: for a cluster, with used calls")
@click.option("--file", "as_line", is_flag=True, help="print a line for the store's ACL file, not a command")
@store_options
def acl_command(
    console: Console,
    place: Place,
    role: str,
    user: str | None,
    password_file: str | None,
    new_password: Path | None,
    as_line: bool,
    cluster: bool,
) -> None:
    """Print the command that creates a store user with only the permissions of a role; it is not sent.

    Send it to the store as its administrator.  --file prints the user's line for the ACL file instead.  Give each
    verifier its own user.  The name belongs in the store's URL, the password in ARX_STORE_PASSWORD.  Users of the roles
    ledger (for services) and ledger-mint are for the Redis of the budgets: the name belongs in `ledger` of the service
    file or of realm.toml, the password in ARX_LEDGER_PASSWORD.  For a cluster add --cluster, and create both users on
    every node.
    """
    # Other users of the machine can read a command line, so a password is read from a file or drawn at random.
    if (password_file is None) == (new_password is None):
        raise Stop("expected --password-file FILE or --new-password FILE", code="usage")
    if cluster and role not in (acl.LEDGER, acl.LEDGER_MINT):
        raise Stop("invalid --cluster: expected it with --role ledger or ledger-mint", code="usage")
    realm = place.realm_name()
    password = acl.new_password() if password_file is None else read_text(password_file)
    if not password or any(not char.isprintable() for char in password):
        raise Stop("invalid password: expected one line of printable text", code="usage")
    name = user or acl.user_name(role, realm)
    if not name.isascii() or not name.isprintable() or " " in name:
        raise Stop("invalid --user: expected printable ASCII without spaces", code="usage")
    # The rules have only the password's SHA-256, so they can be printed.
    if new_password is not None:
        write_private(new_password, password + "\n", replace=False)
    rules = acl.rules(role, realm, password, cluster=cluster)
    command, line = ["ACL", "SETUSER", name, *rules], " ".join(["user", name, *rules])
    value = {"role": role, "user": name, "realm": realm, "rules": rules, "command": command, "line": line}
    console.data("redis-acl", value, line if as_line else " ".join(command))


@redis_command.command("load")
@store_options
def load_command(console: Console, place: Place) -> None:
    """Load this version's functions into the store, as a user of the admin role.

    A mint loads them when it starts, if its user has the permission.
    """
    store = place.store()
    if not store.load_functions():
        raise Stop(
            "this user of the store may not load functions",
            DENIED,
            hint="use a user that `arx redis acl --role admin` creates",
        )
    console.data("redis-functions", {"loaded": True, "realm": store.realm}, "loaded")


@redis_command.command("begin-ledger")
@click.option("--reload", is_flag=True, help="load this version's functions, with new secret names of their keys")
@yes_option
@realm_dir_option
@command_options
def begin_ledger_command(console: Console, realm_dir: Path, yes: bool, reload: bool) -> None:
    """Begin the ledger anew after its clock was ahead, or with other functions, as `arx doctor` reports it.

    The ledger's time never goes back, so budgets of new tasks are refused until its clock has caught up.  First set the
    clocks of the ledger's server and of this machine by NTP.  All open pools are then exhausted: a pool per hour or day
    until its next period, others until an operator tops them up.  A task that starts a minute later has its budget.

    --reload is for functions of an earlier version, or without secret names, also where the clock is right.
    """
    realm = Realm.open(realm_dir)
    url = ledger_url(realm)
    if url is None:
        raise Stop("this realm has no ledger", hint="set `ledger` in realm.toml (docs/budgets.md)", code="no_ledger")
    password = find_password("ARX_LEDGER_PASSWORD")
    with closing(RedisLedger(url, realm.name, password=password, ca=realm.ca)) as ledger:
        clock, seen = ledger.clocks()
        away = abs(clock - now_ms())
        if away > MAX_CLOCK_MS:
            text = f"the clocks of the ledger and of this machine: expected within {MAX_CLOCK_MS} ms, got {away} ms"
            raise Stop(text, hint="set both by NTP, and run it again", code="clock")
        ahead = seen > clock + MAX_CLOCK_MS
        if not ahead and not reload:
            raise Stop("the ledger's time is not ahead of its clock: it need not begin anew", code="not_ahead")
        console.confirm(f"exhaust all open pools of {realm.name}? its time is {show_time(seen)}", yes=yes)
        if reload:
            ledger.reload()
        else:
            ledger.begin_anew()
    value = {"realm": realm.name, "was_at": seen, "is_at": clock}
    console.data("ledger-begun", value, f"begun anew at {show_time(clock)}; tasks that start in a minute have budgets")
