# SPDX-License-Identifier: Apache-2.0
"""``arx redis``: prepare your own stores, once, as their administrator: users and functions.  SPEC 10, 17.5."""

from pathlib import Path

import click

from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.options import Verbs, common_options, pass_console
from arx_caps.cli.place import Place, store_options
from arx_caps.cli.secure_files import read_text, write_private
from arx_caps.cli.terminal import Console
from arx_caps.revocation import acl


@click.group("redis", cls=Verbs)
def redis_command() -> None:
    """Prepare your own revocation store: its users and functions."""


@redis_command.command("acl")
@click.option("--role", type=click.Choice(acl.ROLE_NAMES), required=True, help="role whose permissions the user gets")
@click.option("--user", help="name of the user [arx-ROLE-REALM]")
@click.option("--password-file", type=click.Path(), help="file with the user's password, `-` for stdin")
@click.option("--new-password", type=click.Path(path_type=Path), help="new file for a random password (mode 0600)")
@click.option("--file", "as_line", is_flag=True, help="print a line for the store's ACL file, not a command")
@store_options
@common_options
@pass_console
def acl_command(
    console: Console,
    place: Place,
    role: str,
    user: str | None,
    password_file: str | None,
    new_password: Path | None,
    as_line: bool,
) -> None:
    """Print the command that creates a store user with only the permissions of a role; it is not sent.

    Send it to the store as its administrator.  --file prints the user's line for the ACL file instead.  Give each
    verifier its own user.  The name belongs in the store's URL, the password in ARX_STORE_PASSWORD.  A user of the role
    ledger is for the Redis of the budgets: its name belongs in `ledger`, its password in ARX_LEDGER_PASSWORD.
    """
    # Other users of the machine can read a command line, so a password is read from a file or drawn at random.
    if (password_file is None) == (new_password is None):
        raise Stop("expected --password-file FILE or --new-password FILE", code="usage")
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
    rules = acl.rules(role, realm, password)
    command, line = ["ACL", "SETUSER", name, *rules], " ".join(["user", name, *rules])
    value = {"role": role, "user": name, "realm": realm, "rules": rules, "command": command, "line": line}
    console.data("redis-acl", value, line if as_line else " ".join(command))


@redis_command.command("load")
@store_options
@common_options
@pass_console
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
