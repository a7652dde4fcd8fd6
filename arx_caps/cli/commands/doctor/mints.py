# SPDX-License-Identifier: Apache-2.0
"""The checks of a realm's mints, and of the witnesses of their log.  LOG 1.6.

Each mint is asked at its own address, and all of them through the issuer's: a proxy hides a mint that cannot work.
The mints register where they listen in the realm's database.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx
import msgspec

from arx_caps.agent.sessions.mint_client import OF_PROXIES, PROXY_HINT
from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.errors import NoteError, TamperedError
from arx_caps.audit.merkle.note import VerifierKey
from arx_caps.cli.commands.doctor.check import Check, ask_database
from arx_caps.http.client import no_answer, open_client
from arx_caps.mint.keys.log_key import read_log_key, read_log_keys
from arx_caps.settings.durations import show_span
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, SettingsError

if TYPE_CHECKING:
    from arx_caps.mint.db.repositories.operations.mints import MintSeen

TIMEOUT_S: Final = 3.0
SETTLE_S: Final = 1.0  # between two looks: longer than a lease, so that a short pause is over
SILENT_MS: Final = 60_000  # six signs of life; a mint's clock may be 30 s off before it refuses
AT_ONCE: Final = 8
OWN_VERSION: Final = version("arx-caps")
SEE_LOG: Final = "see its log: it is ready when it can record decisions and follows the store"
HIDES: Final = "so the mint cannot limit calls without authentication by their address"
FORWARDS: Final = (
    "have the proxy set X-Forwarded-For to its client's address (docs/operations.md), and name its network in `proxies`"
    " of realm.toml"
)


class _Readiness(msgspec.Struct, frozen=True):
    """A mint's answer at ``/readyz``; declared here, because the mint need not be installed."""

    ready: bool
    because: list[str]
    log: str
    realm: str
    issuer: str
    log_key: str
    version: str = "older"  # a mint of an earlier version reports none of these
    warnings: tuple[str, ...] = ()
    caller: str = ""


class _Asked(NamedTuple):
    """What a mint answered: the check of it, and its readiness unless it is of another realm or did not answer."""

    check: Check
    readiness: _Readiness | None = None


def check_mints(issuer: str, realm: Realm) -> Iterator[Check]:
    """Check the mints of a realm, at the issuer's address and at the address of each.

    Args:
        issuer: The address at which callers reach the mints.
        realm: The realm.
    """
    registered = {mint.address: mint for mint in ask_database(realm, lambda db: db.mints.list()) or ()}
    addresses = [issuer, *(address for address in registered if address != issuer)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip(addresses, pool.map(lambda address: _ask(address, issuer, realm), addresses), strict=True))
    front = answers[issuer]
    yield front.check
    for address, asked in answers.items():
        if address != issuer:
            yield _registered_check(asked, registered[address])
    yield from _of_log(front.readiness)
    if front.readiness is not None and issuer not in registered:
        yield from _proxy(issuer, front.readiness.caller)
    yield from _alike(registered, answers, realm)


def _ask(address: str, issuer: str, realm: Realm) -> _Asked:
    name = "mint" if address == issuer else f"mint at {address.partition('://')[2]}"
    asked = _ask_once(name, address, realm)
    if asked.check.ok:
        return asked
    time.sleep(SETTLE_S)
    return _ask_once(name, address, realm)


def _ask_once(name: str, address: str, realm: Realm) -> _Asked:
    try:
        with open_client(address, timeout=TIMEOUT_S, ca=realm.ca) as client:
            answer = client.get(address + "/readyz")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        found = f"{address} did not answer ({no_answer(error, address)})"
        return _Asked(Check(name, False, found, "run `arx up` or `arx mint serve`, or set `ca` in realm.toml"))
    except SettingsError as error:
        return _Asked(Check(name, False, str(error), "correct `ca` in realm.toml, or ARX_CA"))
    try:
        readiness = msgspec.json.decode(answer.content, type=_Readiness)
    except msgspec.DecodeError:
        if answer.status_code in OF_PROXIES:
            found = f"{address} answers {answer.status_code}, as a proxy whose mint did not answer"
            return _Asked(Check(name, False, found, PROXY_HINT))
        found = f"{address} answers {answer.status_code}: expected a mint of this version"
        mend = "stop the other server at this address, or correct `issuer` and `listen` in realm.toml"
        return _Asked(Check(name, False, found, mend))
    # Two realms can share an address by mistake: every command would then fail with "unknown key".
    if wrong := _another(readiness, realm):
        mend = "correct `issuer` and `listen` in realm.toml, or the proxy at that address"
        return _Asked(Check(name, False, f"{address} answers as {wrong}", mend), readiness)
    if not readiness.ready:
        found = f"{address} is not ready: {'; '.join(readiness.because)[:300]}"
        return _Asked(Check(name, False, found, SEE_LOG), readiness)
    if readiness.warnings:
        found = f"{address} is ready, and will not be for long: {'; '.join(readiness.warnings)[:300]}"
        mend = "give that folder room, or its owner write access, before calls are refused"
        return _Asked(Check(name, False, found, mend), readiness)
    return _Asked(Check(name, True, f"{address} is ready"), readiness)


def _registered_check(asked: _Asked, seen: "MintSeen") -> Check:
    """Return the check of a mint at its own address: a mint that cannot be reached from here may work."""
    check, age_ms = asked.check, max(0, now_ms() - seen.at)
    if asked.readiness is not None or check.ok:
        return check
    last = f"{check.found}; its last sign of life is {show_span(age_ms)} ago"
    if age_ms <= SILENT_MS:
        mend = f"run `arx doctor` on its host, or let this one reach {seen.address}"
        return Check(check.name, None, f"{last}: not reachable from this machine", mend)
    mend = "start it; a mint that was removed is forgotten an hour after its last sign of life"
    return Check(check.name, False, last, mend)


def _of_log(readiness: _Readiness | None) -> Iterator[Check]:
    if readiness is None:
        return
    if readiness.log == "ok":
        yield Check("audit log", True, "signed")
    # `halted` needs an operator; `starting` and others end by themselves.
    if readiness.log == "halted":
        found = "halted: its database differs from what was signed, so it accepts no records of services"
        mend = "stop every mint, then run `arx audit reindex` (docs/audit.md); the mint's log has the details"
        yield Check("audit log", False, found, mend)


def _proxy(issuer: str, caller: str) -> Iterator[Check]:
    """Check that the proxy at the issuer's address names its clients to the mint."""
    if caller == "hidden" or (caller == "direct" and issuer.startswith("https:")):
        yield Check("proxy", False, f"{issuer} hides its clients' addresses, {HIDES}", FORWARDS)
    elif caller == "unlisted":
        found = f"{issuer} is a proxy that `proxies` does not name, {HIDES}"
        yield Check("proxy", False, found, "name the proxy's network in `proxies` of realm.toml, and restart each mint")
    elif caller == "forwarded":
        yield Check("proxy", True, f"{issuer} names its clients to the mint")


def _alike(registered: "Mapping[str, MintSeen]", answers: Mapping[str, _Asked], realm: Realm) -> Iterator[Check]:
    """Compare versions and issuers of the mints, also of those that cannot be reached from here."""
    versions: dict[str, set[str]] = defaultdict(set)
    for address, asked in answers.items():
        if asked.readiness is not None:
            versions[asked.readiness.version].add(address)
        elif address in registered:
            versions[registered[address].version].add(address)
            if registered[address].issuer != realm.issuer:
                found = f"the issuer of {address} is {registered[address].issuer}, not {realm.issuer}"
                yield Check("issuers", False, found, "correct `issuer` in its realm.toml, and restart it")
    named = "; ".join(f"{version} at {', '.join(sorted(places))}" for version, places in sorted(versions.items()))
    if len(versions) > 1:
        mend = "update every mint to one version (docs/operations.md); while you do, this passes"
        yield Check("versions", False, f"the mints differ: {named}", mend)
    elif versions and OWN_VERSION not in versions:
        found = f"this command is of version {OWN_VERSION}, the mints are of {named}"
        yield Check("versions", None, found, "run the doctor of the mints' version")
    elif versions:
        yield Check("versions", True, f"mints and command are of version {OWN_VERSION}")


def _another(readiness: _Readiness, realm: Realm) -> str | None:
    """Return a name for the mint that answered if it is of another realm, issuer or log key; else None."""
    if readiness.realm != realm.name:
        return f"the mint of the realm {readiness.realm}"
    if readiness.issuer != realm.issuer:
        return f"a mint whose issuer is {readiness.issuer}, not {realm.issuer}"
    try:
        own = str(read_log_key(realm.log_key_path))
    except ArxError:
        return None  # another check reports an unreadable key
    return None if readiness.log_key == own else f"the mint of another realm {realm.name}: its log has another key"


def check_witnesses(realm: Realm) -> Iterator[Check]:
    """Check the cosignatures of the published checkpoint; yield nothing without a witness or a log."""
    # Unless the realm requires cosignatures, a checkpoint is published without, and only auditors notice.
    published = realm.log_dir / "checkpoint"
    if not realm.witnesses or not published.exists():
        return
    try:
        keys = [VerifierKey.parse(each.partition(" ")[2].strip()) for each in realm.witnesses]
        log = read_log_keys(realm.log_key_path)
        seen = open_checkpoint(published.read_bytes(), log, keys).seen
    except (NoteError, TamperedError, SettingsError) as error:
        yield Check("witnesses", False, str(error), "correct `witnesses` in realm.toml (see docs/audit.md)")
        return
    missing = [key.name for key in keys if key not in seen]
    if missing:
        found = f"the last checkpoint is not cosigned by {', '.join(missing)}"
        yield Check(
            "witnesses", False, found, "start the witness: the mint asks it every 10 s, and its log has the error"
        )
    else:
        yield Check("witnesses", True, f"the last checkpoint is cosigned by {', '.join(key.name for key in keys)}")
