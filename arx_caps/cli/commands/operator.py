# SPDX-License-Identifier: Apache-2.0
"""``arx operator``: enrol operators and set their roles.  ``arx whoami``: the operator of a key."""

from pathlib import Path
from typing import Any

import click

from arx_caps.cli.access.key_enrolment import key_options, key_to_enrol
from arx_caps.cli.access.place import Place, database_option, operator_options, realm_dir_option
from arx_caps.cli.access.secure_files import passphrase_option, read_object, read_passphrase
from arx_caps.cli.display import facts_of
from arx_caps.cli.options import KidCommand, Verbs, command_options, yes_option
from arx_caps.cli.resources import OPERATORS, Listed, list_of
from arx_caps.cli.terminal import Console, pairs
from arx_caps.credentials.keyfile import KeyFile
from arx_caps.settings.realm import Realm

ROLES = ("admin", "read-only", "kill-only", "responder", "approver", "policy", "keys", "agents")
role_option = click.option("--role", type=click.Choice(ROLES), help="role of the operator (see docs/operations.md)")
rules_option = click.option(
    "--rules", metavar="FILE", help="JSON file with `rules` over the mint's actions, instead of a role"
)


@click.group("operator", cls=Verbs)
def operator_command() -> None:
    """Enrol operators, set their roles, rotate their keys, recover access."""


@operator_command.command("enrol")
@click.argument("name")
@role_option
@rules_option
@key_options
@operator_options
def enrol(
    console: Console,
    name: str,
    place: Place,
    role: str | None,
    rules: str | None,
    key_out: Path | None,
    public_jwk: str | None,
) -> None:
    """Enrol the operator NAME with a key and a role.

    \b
        arx operator enrol night-watch --role responder --key-out night-watch.key
    """
    asked, name = _role(role, rules), OPERATORS.check(name)
    with key_to_enrol(place, "operator", name, key_out, public_jwk, check="arx operator list") as (mint, public):
        answer = mint.call("POST", OPERATORS.path, {"name": name, "jwk": public.jwk, **asked})
    value = {"operator": answer, "kid": public.kid, "key_file": str(key_out) if key_out else None}
    rows = [("operator", name), ("role", answer.get("role")), ("key", public.kid), ("key file", value["key_file"])]
    console.data("operator", value, lambda: pairs(rows))


@operator_command.command("list")
@list_of(OPERATORS, "OPERATOR: name, STATE, ROLE, KEYS, ENROLLED: created_at", {"KEYS": lambda row: len(row["keys"])})
def list_operators(_: Listed) -> None:
    """List the operators."""


@operator_command.command("show")
@click.argument("name")
@operator_options
def show(console: Console, name: str, place: Place) -> None:
    """Show an operator, its role and its keys."""
    OPERATORS.show(console, place.mint().call("GET", OPERATORS.path_of(name)))


@operator_command.command("role")
@click.argument("name")
@role_option
@rules_option
@operator_options
def set_role(console: Console, name: str, place: Place, role: str | None, rules: str | None) -> None:
    """Set the role of the operator NAME; it applies from its next call."""
    OPERATORS.show(console, place.mint().call("PATCH", OPERATORS.path_of(name), _role(role, rules)))


@operator_command.group("key")
def key_command() -> None:
    """Rotate an operator's keys: add the new key, use it, remove the old key."""


@key_command.command("add")
@click.argument("name")
@key_options
@operator_options
def add_key(console: Console, name: str, place: Place, key_out: Path | None, public_jwk: str | None) -> None:
    """Enrol an additional key of the operator NAME."""
    OPERATORS.check(name)
    with key_to_enrol(place, "operator", name, key_out, public_jwk, check="arx operator list") as (mint, public):
        operator = mint.call("PATCH", OPERATORS.path_of(name), {"add_jwk": public.jwk})
    added = [("added", public.kid), ("key file", key_out)]
    console.data("operator", {"operator": operator, "kid": public.kid}, lambda: pairs([*facts_of(operator), *added]))


@key_command.command("remove", cls=KidCommand)
@click.argument("name")
@click.argument("kid")
@operator_options
def remove_key(console: Console, name: str, kid: str, place: Place) -> None:
    """Remove the key KID of the operator NAME; the last key cannot be removed."""
    OPERATORS.show(console, place.mint().call("PATCH", OPERATORS.path_of(name), {"remove_kid": kid}))


@operator_command.command("remove")
@click.argument("name")
@yes_option
@operator_options
def remove(console: Console, name: str, place: Place, yes: bool) -> None:
    """Remove the operator NAME for good: its keys and tokens are refused from now on."""
    console.confirm(f"remove the operator {OPERATORS.check(name)} for good?", yes=yes)
    answer = place.mint().call("DELETE", OPERATORS.path_of(name))
    console.data("operator", answer, lambda: pairs([("operator", name), ("kill", answer["kill"].get("summary"))]))


@operator_command.command("recover")
@click.option("--name", default="root", show_default=True, help="name of a new operator, or of one whose keys are lost")
@click.option("--key-out", type=click.Path(path_type=Path), required=True, help="file for the new key (mode 0600)")
@passphrase_option
@database_option
@realm_dir_option
@command_options
def recover(
    console: Console, realm_dir: Path, database: str | None, name: str, key_out: Path, passphrase_file: str | None
) -> None:
    """Enrol a new admin key if all are lost, on the mint's host, with the passphrase or key file of the root keys."""
    from arx_caps.mint.server.init_realm import recover_operator  # the mint's parts are optional to install

    realm = Realm.open(realm_dir, database)
    key = KeyFile.generate("operator", OPERATORS.check(name), realm.issuer)
    key.save(key_out)
    # A person who can open the root keys can sign any token, so this needs no permission beyond that.
    try:
        recover_operator(realm, name, key.key.public, passphrase=read_passphrase(passphrase_file))
    except BaseException:  # also Ctrl-C: a key file that is not enrolled would only confuse
        key_out.unlink()
        raise
    value = {"operator": name, "role": "admin", "kid": key.key.public.kid, "key_file": str(key_out)}
    console.data("operator", value, lambda: pairs(facts_of(value)))
    if key_out.resolve() != realm.operator_key_path.resolve():
        console.hint(f"use the key with --operator-key {key_out} or ARX_OPERATOR_KEY")
    console.hint(f"remove the lost keys of {name}: `arx operator show {name}`, `arx operator key remove {name} KID`")
    console.hint(f"if operator:{name} was killed or frozen, run `arx thaw operator:{name} --direct`")


@click.command("whoami")
@operator_options
def whoami_command(console: Console, place: Place) -> None:
    """Show the operator of the key, and its permissions."""
    answer = place.mint().call("GET", "/v1/whoami")
    console.data("whoami", answer, lambda: pairs(facts_of(answer)))


def _role(role: str | None, rules: str | None) -> dict[str, Any]:
    if (role is None) == (rules is None):
        raise click.UsageError("expected --role ROLE or --rules FILE")
    return {"role": role} if rules is None else {"rules": read_object(rules).get("rules")}
