# SPDX-License-Identifier: Apache-2.0
"""``arx doctor``: look at a realm's folder, its store and its mint, and say how to mend what is wrong.

It only looks.  Each check answers for one thing that ARx rests on and cannot itself enforce: who can read the keys,
that the store writes to disk before it answers and evicts nothing, that the clocks agree.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import httpx
import redis

from arx_caps.cli import exits
from arx_caps.cli.frame import common_options, pass_console
from arx_caps.cli.output import Console, plain
from arx_caps.cli.place import Place, all_options, store_url
from arx_caps.realm import Realm
from arx_verifier.errors import ArxError

TIMEOUT_S: Final = 3.0
MAX_CLOCK_MS: Final = 5_000  # far below where mint and verifiers refuse (30 s)
LIBRARY: Final = "arx1"


class Check(NamedTuple):
    """What was found about one thing.

    Attributes:
        name: The thing.
        ok: Whether it is as it should be.
        found: What it is.
        mend: What to do about it; empty when it is well.
    """

    name: str
    ok: bool
    found: str
    mend: str = ""


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
    yield from _store(place.given_store or store_url(realm), realm)
    yield _mint(place.issuer or realm.issuer)


def _permissions(realm: Realm) -> Check:
    open_to_others = [path for path in _secrets(realm) if path.exists() and path.stat().st_mode & 0o077]
    if not open_to_others:
        return Check("permissions", True, "only this user can read the realm's secrets")
    named = " ".join(map(str, open_to_others))
    return Check("permissions", False, f"others can reach {named}", f"chmod go= {named}; think who has read them")


def _secrets(realm: Realm) -> list[Path]:
    services = list(realm.services_dir.glob("*.json")) if realm.services_dir.is_dir() else []
    return [realm.folder, realm.root_path, realm.root_key_path, realm.operator_key_path, realm.valkey_dir, *services]


def _policy(realm: Realm) -> Check:
    from arx_caps.mint.policy import Policy

    try:
        policy = Policy.load(realm.policy_path)
    except ArxError as error:
        return Check("policy", False, str(error), f"edit it, then `arx policy check {realm.policy_path}`")
    return Check("policy", True, f"{len(policy.templates)} task templates, digest {policy.digest}")


def _store(url: str, realm: Realm) -> Iterator[Check]:
    try:
        client: Any = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            decode_responses=True,
            **({"password": os.environ["ARX_STORE_PASSWORD"]} if os.environ.get("ARX_STORE_PASSWORD") else {}),
        )
        at = client.time()
    except (redis.RedisError, OSError, ValueError) as error:
        mend = "start it (`arx up`)" if realm.store is None else "start it, or correct `store` in realm.toml"
        yield Check("store", False, f"it did not answer ({type(error).__name__})", mend)
        return
    with client:
        yield Check("store", True, "it answers")
        away_ms = abs(at[0] * 1000 + at[1] // 1000 - time.time_ns() // 1_000_000)
        mend = "" if away_ms <= MAX_CLOCK_MS else "set both clocks by NTP; from 30 s on nothing is granted or accepted"
        yield Check("clock", not mend, f"{away_ms} ms from the store's", mend)
        for check in (_persistence, _eviction, _functions):
            yield _asked(check, client)


def _asked(check: Callable[[Any], Check], client: Any) -> Check:
    """Make one check; a store that does not let this user ask is no failure of the store."""
    name = check.__name__.removeprefix("_")
    try:
        return check(client)
    except redis.exceptions.NoPermissionError:
        return Check(name, True, "this user may not ask")
    except (redis.RedisError, OSError) as error:
        return Check(name, False, f"it did not say ({type(error).__name__})", "look at the store's log")


def _persistence(client: Any) -> Check:
    on = str(client.info("persistence").get("aof_enabled")) == "1"
    fsync = client.config_get("appendfsync").get("appendfsync")
    if on and fsync == "always":
        return Check("persistence", True, "each kill is on disk before it is acknowledged")
    found = f"appendfsync {fsync}" if on else "no append-only file"
    return Check("persistence", False, f"{found}: a crash can undo a kill", "set appendonly yes, appendfsync always")


def _eviction(client: Any) -> Check:
    policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
    mend = "" if policy == "noeviction" else "set maxmemory-policy noeviction; an evicted kill is forgotten"
    return Check("eviction", not mend, str(policy), mend)


def _functions(client: Any) -> Check:
    there = bool(client.function_list(library=LIBRARY))
    mend = "" if there else "start the mint once: it loads them"
    return Check("functions", there, f"{LIBRARY} {'is' if there else 'is not'} loaded", mend)


def _mint(issuer: str) -> Check:
    try:
        answer = httpx.get(issuer + "/readyz", timeout=TIMEOUT_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        found = f"{issuer} did not answer ({type(error).__name__})"
        return Check("mint", False, found, "run `arx up` or `arx mint serve`")
    if answer.is_success:
        return Check("mint", True, f"{issuer} is ready")
    if "json" not in answer.headers.get("Content-Type", ""):
        found = f"{issuer} answers {answer.status_code}, and not as a mint does"
        return Check("mint", False, found, "something else listens there: end it, or correct `issuer` and `listen`")
    said = f"{issuer} answers {answer.status_code}: {answer.text[:300]}"
    return Check("mint", False, said, "see its log; it is ready once it can record and follows the store")
