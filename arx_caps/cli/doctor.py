# SPDX-License-Identifier: Apache-2.0
"""``arx doctor``: look at a realm's folder, its store and its mint, and say how to mend what is wrong.

It only looks.  Each check answers for one thing that ARx rests on and cannot itself enforce: who can read the keys,
that the store writes to disk before it answers and evicts nothing, that the clocks agree.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import httpx

from arx_caps.cli import exits
from arx_caps.cli.doctor_check import Check
from arx_caps.cli.doctor_store import check_store
from arx_caps.cli.doctor_witness import check_witnesses
from arx_caps.cli.frame import common_options, pass_console
from arx_caps.cli.output import Console, plain
from arx_caps.cli.place import Place, all_options
from arx_caps.realm import Realm
from arx_verifier.errors import ArxError

TIMEOUT_S: Final = 3.0


@click.command("doctor")
@all_options
@common_options
@pass_console
def doctor_command(console: Console, place: Place) -> None:
    """Look for what is wrong and say how to mend it; exits with 1 when something is."""
    checks = list(_checks(place))
    well = all(check.ok for check in checks)
    value = {"ok": well, "checks": [check._asdict() for check in checks]}
    console.data("doctor", value, lambda: "\n".join(map(_line, checks)))
    click.get_current_context().exit(exits.OK if well else exits.DENIED)


def _line(check: Check) -> str:
    mark = click.style("ok  ", fg="green") if check.ok else click.style("BAD ", fg="red", bold=True)
    mend = f"\n     mend: {plain(check.mend)}" if check.mend else ""
    return f"{mark} {check.name}: {plain(check.found)}{mend}"


def _checks(place: Place) -> Iterator[Check]:
    try:
        realm = Realm.open(place.realm_dir)
    except ArxError as error:
        mend = "run `arx init`, or name the folder with --realm-dir or ARX_HOME"
        if (place.realm_dir / "realm.toml").exists():
            mend = "correct that file; `arx init` in another folder shows how one looks"
        yield Check("realm", False, str(error), mend)
        return
    yield Check("realm", True, f"{realm.name} in {realm.folder}")
    yield _permissions(realm)
    yield _policy(realm)
    yield from check_store(place.given_store, realm)
    yield from _mint(place.issuer or realm.issuer)
    yield from check_witnesses(realm)


def _permissions(realm: Realm) -> Check:
    open_to_others = [path for path in _secrets(realm) if path.exists() and path.stat().st_mode & 0o077]
    if not open_to_others:
        return Check("permissions", True, "only this user can read the realm's secrets")
    named = " ".join(map(str, open_to_others))
    return Check("permissions", False, f"others can reach {named}", f"chmod go= {named}; think who has read them")


def _secrets(realm: Realm) -> list[Path]:
    services = list(realm.services_dir.glob("*.json")) if realm.services_dir.is_dir() else []
    return [
        realm.folder,
        realm.root_path,
        realm.root_key_path,
        realm.log_key_path,
        realm.operator_key_path,
        realm.valkey_dir,
        *services,
    ]


def _policy(realm: Realm) -> Check:
    from arx_caps.mint.policy import Policy

    try:
        policy = Policy.load(realm.policy_path)
    except ArxError as error:
        return Check("policy", False, str(error), f"edit it, then `arx policy check {realm.policy_path}`")
    return Check("policy", True, f"{len(policy.templates)} task templates, digest {policy.digest}")


def _mint(issuer: str) -> Iterator[Check]:
    try:
        answer = httpx.get(issuer + "/readyz", timeout=TIMEOUT_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        found = f"{issuer} did not answer ({type(error).__name__})"
        yield Check("mint", False, found, "run `arx up` or `arx mint serve`")
        return
    if "json" not in answer.headers.get("Content-Type", ""):
        found = f"{issuer} answers {answer.status_code}, and not as a mint does"
        yield Check("mint", False, found, "something else listens there: end it, or correct `issuer` and `listen`")
        return
    if answer.is_success:
        yield Check("mint", True, f"{issuer} is ready")
    else:
        said = f"{issuer} answers {answer.status_code}: {answer.text[:300]}"
        yield Check("mint", False, said, "see its log; it is ready once it can record and follows the store")
    if '"log":"ok"' in answer.text:
        yield Check("audit log", True, "it is signed")
    if '"log":"halted"' in answer.text:
        found = "it is not signed any more, and takes no service's records"
        yield Check(
            "audit log", False, found, "the mint's log says why; docs/audit.md what to do (`arx audit recover`)"
        )
