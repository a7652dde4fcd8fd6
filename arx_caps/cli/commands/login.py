# SPDX-License-Identifier: Apache-2.0
"""``arx login``: log in as an operator at the realm's OpenID Connect issuer.  ``arx logout``: end it.  CONTROL 1.7."""

import contextlib
from pathlib import Path

import click

from arx_caps.cli.access.device_login import DeviceCode, DeviceLogin
from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.access.place import Place, login_key_path, operator_options
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.terminal import Console, pairs, plain
from arx_caps.credentials.keyfile import KeyFile, SigningKey
from arx_caps.settings.durations import show_time


@click.command("login")
@operator_options
def login_command(console: Console, place: Place) -> None:
    """Log in as an operator: confirm a code in the browser of any machine.

    The key of the login is kept in the user's own folder (mode 0600), and ends after hours.
    """
    issuer = place.mint_url()
    caller = Caller(issuer, SigningKey.generate(), ca=place.ca())
    at = caller.call("GET", "/v1/login")

    def show(code: DeviceCode) -> None:
        page = code.verification_uri_complete or code.verification_uri
        # Without --quiet's silence: without the code there is no login.
        click.echo(f"open {plain(page)} and confirm the code {plain(code.user_code)}", err=True)
        console.say("confirm it only if the page shows this very code")

    token = DeviceLogin(at["issuer"], at["client_id"], at["scope"], place.ca(), show).run()
    answer = caller.call("POST", "/v1/login", {"id_token": token}, repeats=False)
    path = login_key_path(issuer)
    _save(KeyFile("operator", answer["operator"], caller.issuer, caller.key, caller.ca), path)
    value = {"operator": answer["operator"], "until": answer["until"], "key_file": str(path)}
    rows = [("operator", value["operator"]), ("until", show_time(answer["until"])), ("key file", path)]
    console.data("login", value, lambda: pairs(rows))


@click.command("logout")
@operator_options
def logout_command(console: Console, place: Place) -> None:
    """End the login of `arx login`, and delete its key."""
    path = login_key_path(place.mint_url())
    if not path.exists():
        raise Stop("there is no login at this mint", hint="`arx login` begins one", code="no_key")
    try:
        answer = Caller.operator(path, ca=place.ca()).call("DELETE", "/v1/login")
    except Stop as error:
        # A login that has ended already is what was asked for.
        if error.code not in ("bad_assertion", "frozen", "no_role"):
            raise
        answer = {"operator": KeyFile.load(path).name}
    path.unlink(missing_ok=True)
    console.data("logout", answer, lambda: pairs([("logged out", answer["operator"])]))


def _save(key: KeyFile, path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    key.save(beside)
    beside.replace(path)
