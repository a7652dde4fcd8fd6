# SPDX-License-Identifier: Apache-2.0
"""``arx audit recover``: a log whose database was put back goes on with the history that was signed.  SPEC 17.10."""

import os
import re
from pathlib import Path

import click
import httpx

from arx_caps.cli import exits
from arx_caps.cli.audit_progress import Progress
from arx_caps.cli.exits import Stop
from arx_caps.cli.frame import common_options, pass_console, yes_option
from arx_caps.cli.output import Console, plain
from arx_caps.cli.place import database_option, realm_dir_option
from arx_caps.realm import Realm

TIMEOUT_S = 2.0


@click.command("recover")
@click.option("--reason", required=True, help="why the database needs it; it is recorded, so name no person in it")
@yes_option
@realm_dir_option
@database_option
@common_options
@pass_console
def recover_command(console: Console, realm_dir: Path, database: str | None, reason: str, yes: bool) -> None:
    """Take back into the log's database what was signed and is not in it, from the files in the realm's `log` folder.

    For a database that was restored from a backup, and for rows that `arx audit check` names.  Stop the mint first, on
    every host, and start it afterwards.  Records come back without their bodies, unless the body is still there.  Exits
    with 1 when the files are not this log, 3 when they lack something; then nothing was changed.
    """
    from arx_caps.audit.errors import IncompleteError, NoteError, TamperedError
    from arx_caps.audit.keys import read_signer
    from arx_caps.audit.mending import mend
    from arx_caps.audit.recover import recover
    from arx_caps.mint.log import open_store

    realm = Realm.open(realm_dir)
    key = read_signer(realm.log_key_path, "log").key
    _demand_silence(realm)
    console.confirm("is the mint stopped, and shall the log go on from its files?", yes=yes)
    with open_store(realm, database) as store, Progress(console) as progress:
        store.create()
        by, count = f"host:uid-{os.getuid()}", 0
        try:
            count = recover(store, realm.log_dir, key, by=by, reason=reason, progress=progress.tell)
            mended = mend(store, realm.log_dir, key, by=by, reason=reason, progress=progress.tell)
        except (TamperedError, NoteError, IncompleteError) as error:
            done = f"{count} records are back, nothing else was changed" if count else "nothing was changed"
            code = exits.INCOMPLETE if isinstance(error, IncompleteError) else exits.DENIED
            raise Stop(f"{done}: {error}", code, code=error.code) from None
    told = f"{count} records are back, {mended} were filed anew" if count or mended else "no record was missing"
    console.data("audit-recovered", {"recovered": count, "mended": mended}, f"{told}; start the mint")


def _demand_silence(realm: Realm) -> None:
    """Demand that nobody answers where this realm's mint listens; one of another host cannot be seen from here.

    Also who is somebody else is a reason to stop: an address or a name in the realm's settings is then not what its
    mint was started with, and it may run elsewhere.

    Raises:
        Stop: Somebody does; it is said whether that is the realm's own mint.
    """
    host, _, port = realm.listen.rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - where it listens, to ask it
    try:
        answer = httpx.get(f"http://{here}:{port}/v1/whoami", timeout=TIMEOUT_S, trust_env=False)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return
    except httpx.HTTPError as error:
        told = f"something at {realm.listen} takes connections and does not answer ({type(error).__name__})"
    else:
        found = _whose(answer)
        if found == (realm.name, realm.issuer):
            raise Stop(f"nothing was changed: the mint runs at {realm.listen}", hint="stop it first, on every host")
        who = "something that is no mint" if found is None else f"the mint of realm {found[0]}, {found[1]},"
        told = f"{who} answers at {realm.listen}, where this realm's mint would"
    hint = "whether this realm's own mint runs cannot be told so: stop it, and what listens there, or correct `listen`"
    raise Stop(f"nothing was changed: {told}", hint=f"{hint} and `issuer` in {realm.folder / 'realm.toml'}")


def _whose(answer: httpx.Response) -> tuple[str, str] | None:
    """Return which realm and issuer a mint names when it refuses a call without a token; None for what is no mint."""
    from arx_caps.mint.codes import PATH

    named = re.match(r'DPoP realm="([a-z0-9._-]{1,32})"', answer.headers.get("WWW-Authenticate", ""))
    try:
        kind = answer.json()["type"]
    except (ValueError, LookupError, TypeError):
        return None
    issuer, at, _ = str(kind)[:300].rpartition(PATH)
    return (named[1], plain(issuer)) if named and at else None
