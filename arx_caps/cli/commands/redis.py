# SPDX-License-Identifier: Apache-2.0
"""``arx redis``: prepare a store of one's own: the users that it needs, and the functions that kills are.  SPEC 10.

The store's administrator does this once; afterwards the mint needs neither right.  A password is read or drawn, never
typed as an argument, and only its digest is written into a rule.
"""

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
    """Prepare a store of your own: its users, its functions."""


@redis_command.command("acl")
@click.option("--role", type=click.Choice(list(acl.ROLES)), required=True, help="whose rights")
@click.option("--user", help="the user's name; else arx-ROLE-REALM")
@click.option("--password-file", type=click.Path(), help="the user's password is this file's text (\"-\": stdin)")
@click.option("--new-password", type=click.Path(path_type=Path), help="draw one and write it to this file (mode 0600)")
@click.option("--file", "as_line", is_flag=True, help="print a line of the store's ACL file, not a command")
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
    """Print the command that makes a user with the least rights that a role needs; nothing is sent to the store.

    Send it to the store as its administrator.  With --file, print the user's line for the store's ACL file: a server
    does not start with a command in it.  Each verifier should have a user of its own.  The user's name goes into the
    store's URL, its password into ARX_STORE_PASSWORD.
    """
    if (password_file is None) == (new_password is None):
        raise Stop("give the password's file with --password-file, or have one drawn with --new-password", code="usage")
    realm = place.realm_name()
    password = acl.new_password() if password_file is None else read_text(password_file)
    if not password or any(not char.isprintable() for char in password):
        raise Stop("a password is one line of text", code="usage")
    name = user or acl.user_name(role, realm)
    if not name.isascii() or not name.isprintable() or " " in name:
        raise Stop("a user's name is printable characters without spaces", code="usage")
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
    """Load this version's functions into the store, as a user with the admin role.

    A mint whose user may load them does so by itself.
    """
    store = place.store()
    if not store.load_functions():
        raise Stop("this user may not load functions", DENIED, hint="use one of `arx redis acl --role admin`")
    console.data("redis-functions", {"loaded": True, "realm": store.realm}, "loaded")
