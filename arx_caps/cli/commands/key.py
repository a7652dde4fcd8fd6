# SPDX-License-Identifier: Apache-2.0
"""``arx key``: the realm's root keys, from which the services' keys are derived, and holders' keys.  SPEC 9, 16."""

from pathlib import Path
from typing import Any

import click

from arx_caps.cli.access.place import Place, database_option, operator_options, realm_dir_option
from arx_caps.cli.access.secure_files import passphrase_option, read_given_passphrase, read_passphrase
from arx_caps.cli.display import Row, time_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, command_options, yes_option
from arx_caps.cli.resources import HOLDER_KEYS, ROOT_KEYS, SIGNING_KEYS, Listed, list_of
from arx_caps.cli.terminal import Console, pairs
from arx_caps.credentials.access_token import ALGORITHMS
from arx_caps.settings.durations import show_time
from arx_caps.settings.realm import Realm

TIMEOUT_S = 60.0  # a retirement is confirmed when the leases have ended


@click.group("key", cls=Verbs)
def key_command() -> None:
    """Create, rotate, retire and reseal root keys, and create holder keys; a rotation refuses no call."""


_from = time_of("mints_from")


def _waits(key: Row) -> str | None:
    return ", ".join(waiting["audience"] for waiting in key["waits_for"]) or None


@key_command.command("list")
@list_of(
    ROOT_KEYS,
    "KEY: name, STATE, MADE: created_at, MINTS FROM, MINTS FOR: mints_for, WAITS FOR",
    {"MINTS FROM": _from, "WAITS FOR": _waits},
)
def list_keys(_: Listed) -> None:
    """List the root keys, the services that each mints for, and the services that it waits for."""


@key_command.command("holders")
@list_of(HOLDER_KEYS, "HOLDER, KEY: kid, ENROLLED: added_at, LAST USED", {"LAST USED": time_of("used_at", "never")})
def list_holder_keys(_: Listed) -> None:
    """List the keys of agents, operators and services, and when each last signed, to about a minute."""


@key_command.command("create-holder")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@command_options
def create_holder(console: Console, file: Path) -> None:
    """Create the key of an agent that is delegated bound tasks, in the new file FILE (mode 0600), and print its
    public half.

    The agent keeps the file; who delegates to it needs the public half.

    \b
        arx key create-holder worker.key
        arx token delegate acme/worker --in task.bundle --holder-key session.json --key "$(arx key show worker.key)"
    """
    from arx_caps.agent.tasks.holder_key import make_holder_key

    key = make_holder_key(file)
    console.data("holder-key", {"public": key.public, "file": str(file)}, key.public)
    console.hint(f"the agent finds it with ARX_HOLDER_KEY_FILE={file}, or with `key=load_holder_key({str(file)!r})`")


@key_command.command("show")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@command_options
def show(console: Console, file: Path) -> None:
    """Print the public half of the key in FILE: of a holder, a session, an agent or a service."""
    from arx_caps.agent.tasks.holder_key import load_holder_key

    key = load_holder_key(file)
    console.data("holder-key", {"public": key.public, "file": str(file)}, key.public)


@key_command.command("create")
@operator_options
def create(console: Console, place: Place) -> None:
    """Create a root key and publish it to the services; it mints no token yet."""
    _show(console, place.mint().call("POST", ROOT_KEYS.path))


@key_command.command("rotate")
@click.option(
    "--now", is_flag=True, help="do not wait until all services have the key: others refuse calls until they fetch it"
)
@operator_options
def rotate(console: Console, place: Place, now: bool) -> None:
    """Mint with the newest root key as soon as every service has it; create one if needed."""
    key = place.mint().call("POST", f"{ROOT_KEYS.path}/rotate", {"now": now})
    _show(console, key)
    console.hint(
        "wait until `arx key list` shows that it mints for every service; then run `arx key retire` for the older key"
    )


@key_command.command("retire")
@click.argument("name")
@click.option("--now", is_flag=True, help="revoke its live tokens, as for a stolen key")
@yes_option
@operator_options
def retire(console: Console, name: str, place: Place, now: bool, yes: bool) -> None:
    """Retire the root key NAME for good: every verifier refuses it within a lease."""
    console.confirm(f"retire the root key {ROOT_KEYS.check(name)[:16]} for good?", yes=yes)
    try:
        answer = place.mint(TIMEOUT_S).call("POST", f"{ROOT_KEYS.path_of(name)}/retire", {"now": now})
    except Stop as error:
        if error.code == "conflict":
            error.hint = "`arx key list` shows the services that still need it; --now is for a stolen key"
        raise
    kill = answer.get("kill") or {}
    console.data("key", answer, lambda: pairs([("key", name), ("state", "retired"), ("freeze", kill.get("summary"))]))


@key_command.command("reseal")
@click.option(
    "--new-passphrase-file", type=click.Path(), help="file with the new passphrase, `-` for stdin, or command:PROGRAM…"
)
@click.option("--new-key-file", is_flag=True, help="seal with a new key file, keys/root.key")
@passphrase_option
@database_option
@realm_dir_option
@command_options
def reseal_command(
    console: Console,
    realm_dir: Path,
    database: str | None,
    passphrase_file: str | None,
    new_passphrase_file: str | None,
    new_key_file: bool,
) -> None:
    """Seal the root keys with another passphrase or key file, on the mint's host; the keys do not change.

    The mint may run meanwhile.  After an interruption, run the same command again.  Older backups need the older
    passphrase or key file: keep it as long as them.
    """
    from arx_caps.mint.keys.reseal import reseal  # the mint's parts are optional to install

    if (new_passphrase_file is None) == (not new_key_file):
        raise click.UsageError("expected --new-passphrase-file FILE or --new-key-file")
    if new_passphrase_file == passphrase_file == "-":  # noqa: S105 - stdin, no password
        raise click.UsageError("only one of the two passphrases can be read from stdin")
    realm = Realm.open(realm_dir, database)
    new = None if new_passphrase_file is None else read_given_passphrase(new_passphrase_file)
    done = reseal(realm, passphrase=read_passphrase(passphrase_file), new_passphrase=new)
    old = None if done.old_key_file is None else str(done.old_key_file)
    seal = "key file" if new is None else "passphrase"
    value = {"keys": list(done.keys), "sealed_with": seal, "file": str(realm.root_path), "old_key_file": old}
    rows = [("keys", ", ".join(done.keys)), ("sealed with", seal), ("file", realm.root_path), ("old key file", old)]
    console.data("resealed", value, lambda: pairs(rows))
    if old is not None:
        console.hint(f"keep {old} with older backups, which need it, or destroy it")
    console.hint("copy this keys/ to every mint of the realm and restart it, before you create another root key")


@key_command.command("signing")
@list_of(
    SIGNING_KEYS,
    "KEY: kid, ALGORITHM, STATE, MADE: created_at, SIGNS FROM",
    {"SIGNS FROM": time_of("signs_from")},
)
def list_signing(_: Listed) -> None:
    """List the keys that sign access tokens of the OAuth front; the mint replaces each after 30 days."""


@key_command.command("rotate-signing")
@click.option("--algorithm", type=click.Choice(ALGORITHMS), help="algorithm of the next key [that of the key before]")
@click.option("--stolen", is_flag=True, help="sign with it at once, and retire the others: their tokens are refused")
@yes_option
@operator_options
def rotate_signing(console: Console, place: Place, algorithm: str | None, stolen: bool, yes: bool) -> None:
    """Make the next key that signs access tokens of the OAuth front; it signs after ten minutes."""
    if stolen:
        console.confirm("refuse every access token of the keys of before?", yes=yes)
    body = {"algorithm": algorithm, "stolen": stolen}
    key = place.mint().call("POST", f"{SIGNING_KEYS.path}/rotate", body)
    rows = [("key", key["kid"]), ("algorithm", key["algorithm"]), ("state", key["state"])]
    rows.append(("signs from", show_time(key["signs_from"])))
    console.data("signing-key", {"key": key}, lambda: pairs(rows))


def _show(console: Console, key: dict[str, Any]) -> None:
    rows = [("key", key["name"]), ("state", key["state"]), ("mints from", _from(key)), ("waits for", _waits(key))]
    console.data("key", {"key": key}, lambda: pairs(rows))
