# SPDX-License-Identifier: Apache-2.0
"""The checks of the revocation store: its server, its users, the realm's data, and its verifiers.  SPEC 10.

They read as the user of the store's URL.  A check that this user has no permission for is unknown.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import redis

from arx_caps.cli.access.place import store_url
from arx_caps.cli.commands.doctor.check import Check, find_address
from arx_caps.cli.commands.doctor.history import check_history
from arx_caps.cli.commands.doctor.rights import narrow_users, show_lack
from arx_caps.cli.commands.doctor.services import check_services
from arx_caps.revocation import acl
from arx_caps.revocation.failover import Topology, look, must_attest
from arx_caps.revocation.store import RevocationStore, functions
from arx_caps.revocation.wire import state_of
from arx_caps.settings.durations import show_span
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, StoreError
from arx_verifier.journal.writer import apart, writers
from arx_verifier.revocation.password import find_password
from arx_verifier.revocation.store_link import MAX_ANSWER
from arx_verifier.revocation.store_url import Address, CertificateError, refused_login

ANYBODY: Final = "default"


# Only an administrator can list users.  Its own permissions are not checked: those of the realm's own user, of its
# followers and of the default user are.
def wide_users(client: Any, realm: str, store: str | None) -> tuple[int, dict[str, list[str]]]:
    """Check the store's users that concern a realm.

    Args:
        client: The store's server, as a user that may ask about users.
        realm: The realm.
        store: The address that the realm's folder names, or None.

    Returns:
        The number of checked users, and the excess permissions by user.
    """
    asking = str(client.acl_whoami())
    own = asking if store is None else Address(store, None, realm).username or ANYBODY
    following = {str(one.get("user")) for one in client.client_list("pubsub")}
    roles = {acl.user_name(role, realm) for role in acl.ROLES}
    looked_at, wide = 0, {}
    for name in map(str, client.acl_users()):
        user = client.acl_getuser(name)
        if not acl.is_on(user):
            continue
        known = name in {own, ANYBODY} | roles or acl.is_named_for(user, realm)
        if not known and not (name in following and acl.reaches(user, realm)):
            continue
        if name == asking != own and name not in following and not acl.has_no_password(user):
            continue  # the administrator who runs this command
        looked_at += 1
        if found := acl.too_wide(user, realm, name):
            wide[name] = found
    return looked_at, wide


TIMEOUT_S: Final = 3.0
MAX_CLOCK_MS: Final = 5_000  # far below 30 s, from which mint and verifiers refuse
LIBRARY: Final = "arx1"
ACLS: Final = "create users with `arx redis acl`, and name one in the store's URL"
CERTIFICATE: Final = "set `ca` in realm.toml to the authority that issued it, or correct `store`"
LOGIN: Final = "ARX_STORE_PASSWORD, ARX_STORE_PASSWORD_FILE or the login in `store`"
MAY_NOT: Final = "check as the store's administrator: name that user in --store, its password in ARX_STORE_PASSWORD"
# The mint's own user, as `arx redis acl` makes it, may not load functions.
BEGIN: Final = (
    "run `arx redis load` as a user of the admin role (`arx up` does this at start); then start the mint, which begins"
    " the history"
)
SLOW_LINK_S: Final = 10  # the largest answer passes a slow link within the time of the soft limit
NO_LIMIT: Final = 1 << 62
SETTLE_S: Final = 0.3  # a verifier that is behind may catch up in this time


class Patient(NamedTuple):
    """The checked store.

    Attributes:
        client: A client of the server, with answers as text.
        store: The realm's data in it.
        realm: The realm's settings.
        own: Whether it is the server that ``arx up`` runs, which no other user can connect to.
    """

    client: Any
    store: RevocationStore
    realm: Realm
    own: bool


def check_store(url: str | None, realm: Realm) -> Iterator[Check]:
    """Check a realm's store.

    Args:
        url: The store's URL; None for that of the realm's folder.
        realm: The realm.
    """
    own, where = url is None and realm.store is None, url or store_url(realm)
    address = find_address("store", where, realm)
    if isinstance(address, Check):
        yield address
        return
    client: Any = address.client(TIMEOUT_S, protocol=3, decode_responses=True)
    store = RevocationStore(where, realm.name, password=find_password("ARX_STORE_PASSWORD"), ca=realm.ca)
    try:
        at = client.time()
    except (redis.RedisError, OSError) as error:
        mend = "start it with `arx up`" if own else "start it, or correct `store` in realm.toml"
        if isinstance(error, CertificateError):
            yield Check("store", False, str(error), CERTIFICATE)
            return
        if refused := refused_login(error, LOGIN):
            yield Check("store", False, refused, "give the mint's login, or the store's administrator's")
            return
        yield Check("store", False, f"no answer ({type(error).__name__})", mend)
        return
    # The checks below need an answering store, so an unreachable one ends above with one result.
    with client, store:
        yield Check("store", True, "answers")
        yield _clocks(at)
        for check in CHECKS:
            yield _asked(check, Patient(client, store, realm, own))
        try:
            yield from check_history(store, realm)
            yield from check_services(store, realm)
        except StoreError as error:
            denied = isinstance(error.__cause__, redis.exceptions.NoPermissionError)
            yield Check("history", None, f"not compared: {error}", MAY_NOT if denied else "see the store's log")


def _clocks(at: tuple[int, int]) -> Check:
    """Compare this machine's clock with the store's time, given as seconds and microseconds."""
    away_ms = abs(at[0] * 1000 + at[1] // 1000 - now_ms())
    mend = "" if away_ms <= MAX_CLOCK_MS else "set both clocks by NTP: from 30 s on every call is refused"
    return Check("clock", not mend, f"{away_ms} ms from the store's clock", mend)


def _asked(check: Callable[[Patient], Check], patient: Patient) -> Check:
    """Return the result of a check; unknown if the store's user has no permission for it."""
    name = check.__name__.removeprefix("_")
    try:
        return check(patient)
    except (redis.RedisError, OSError, ArxError) as error:
        if any(isinstance(each, redis.exceptions.NoPermissionError) for each in (error, error.__cause__)):
            return Check(name, None, "the store's user has no permission for this check", MAY_NOT)
        if isinstance(error, ArxError):
            return Check(name, False, str(error), BEGIN)
        return Check(name, False, f"no answer ({type(error).__name__})", "see the store's log")


def _persistence(patient: Patient) -> Check:
    info = patient.client.info("persistence")
    on = str(info.get("aof_enabled")) == "1"
    if not on:
        found = "no append-only file: a crash can undo a kill"
        return Check(
            "persistence",
            False,
            found,
            "run CONFIG SET appendonly yes and CONFIG SET appendfsync always, and set both in its file",
        )
    if info.get("aof_last_write_status") != "ok":
        return Check("persistence", False, "the last write to its file failed", "free space on the store's disk")
    fsync = patient.client.config_get("appendfsync").get("appendfsync")
    if fsync != "always":
        found = f"appendfsync {fsync}: a power cut can undo a kill"
        return Check("persistence", False, found, "run CONFIG SET appendfsync always, and set it in its file")
    return Check("persistence", True, "each kill is on disk before it is acknowledged")


def _eviction(patient: Patient) -> Check:
    # The store's kills have no expiry of their own, but an eviction policy such as allkeys-lru deletes any key.
    policy = patient.client.config_get("maxmemory-policy").get("maxmemory-policy")
    mend = (
        ""
        if policy == "noeviction"
        else "run CONFIG SET maxmemory-policy noeviction, and set it in its file: else a kill can be evicted"
    )
    return Check("eviction", not mend, str(policy), mend)


def _functions(patient: Patient) -> Check:
    found = patient.client.execute_command("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")
    mend = "restart `arx up`, which loads them; for your own store run `arx redis load` as a user of the admin role"
    if not found:
        return Check("functions", False, f"{LIBRARY} is not loaded", mend)
    library = found[0]
    facts = library if isinstance(library, dict) else dict(zip(library[::2], library[1::2], strict=True))
    # Compared as text: an older library can accept a call that this version's library refuses.
    if facts["library_code"] != functions():
        return Check("functions", False, f"{LIBRARY} is of another version of ARx than this command", mend)
    return Check("functions", True, f"{LIBRARY} is loaded, of this version")


def _buffer(patient: Patient) -> Check:
    """Check the server's limit of bytes for a follower, beyond which it closes the connection."""
    # Answers and messages to a follower wait in this buffer.  A follower whose connection closes at each attempt never
    # catches up, and refuses every call.
    words = patient.client.config_get("client-output-buffer-limit")["client-output-buffer-limit"].split()
    hard, soft, soft_s = map(int, words[words.index("pubsub") + 1 :][:3])
    small = min(hard or NO_LIMIT, soft if soft and soft_s < SLOW_LINK_S else NO_LIMIT)
    if small < MAX_ANSWER:
        found = f"{small} bytes per follower, below the largest answer ({MAX_ANSWER}): a late one cannot catch up"
        mend = "run CONFIG SET client-output-buffer-limit 'pubsub 32mb 8mb 60', and set it in its file"
        return Check("buffer", False, found, mend)
    return Check("buffer", True, "large enough for a follower that is far behind")


def _access(patient: Patient) -> Check:
    if patient.own:  # it listens at a socket in the realm's private folder, so it needs no users
        return Check("access", True, "only this user can open the store's socket")
    looked_at, wide = wide_users(patient.client, patient.realm.name, patient.realm.store)
    if wide:
        named = "; ".join(f"the user {name} has {', '.join(found)}" for name, found in wide.items())
        only_default = set(wide) == {ANYBODY} and patient.realm.store is not None
        return Check("access", False, named, f"{ACLS}; then `ACL SETUSER default off`" if only_default else ACLS)
    return Check("access", True, f"{looked_at} users of the realm, each with only the permissions of its role")


def _rights(patient: Patient) -> Check:
    """Check that each user of the realm has the rights of its role."""
    if patient.own:
        return Check("rights", True, "the store has no users")
    lacking = narrow_users(patient.client, patient.realm)
    if lacking:
        found = "; ".join(show_lack(name, role, refused) for name, (role, refused) in lacking.items())
        prints = [f"`arx redis acl --role {role} --realm {patient.realm.name}`" for role, _ in lacking.values()]
        mend = f"set the rules that {' and '.join(dict.fromkeys(prints))} prints, with the user's own password"
        return Check("rights", False, found, mend)
    return Check("rights", True, "each user of the realm has what its role needs")


def _replication(patient: Patient) -> Check:
    info, realm = patient.client.info("replication"), patient.realm
    replicas = int(info.get("connected_slaves", -1))  # some services hide it
    if info.get("role") != "master":
        return Check("replication", False, "this server is a replica", "name the primary, or its Sentinels, in `store`")
    topology = Topology(realm.replicas, realm.on_failover, realm.failover_window_ms)
    seen = look(patient.store)
    if seen.known[0] != seen.server.replid:
        found = "the store restarted or failed over, and no mint has attested it since: every call is refused"
        return Check("replication", False, found, "start the mint, which follows `on_failover` in realm.toml")
    if must_attest(patient.store, topology):
        found = "no mint has taken over the replicas that the server has, or these settings of realm.toml"
        return Check("replication", False, found, "restart the mint")
    if not realm.replicas and (shown := seen.replicas):
        found = "no kill is reported as durable: the server hides whether it has replicas"
        if shown > 0:
            found = (
                f"kills do not wait for the {shown} replicas, connected or within a day: a promoted one can lack a kill"
            )
        return Check("replication", False, found, f"set replicas = {max(1, shown)} in realm.toml, and restart the mint")
    if not (replicas or realm.replicas or patient.store.fails_over):
        return Check("replication", True, "one server without replicas")
    if 0 <= replicas < realm.replicas:
        found = f"{replicas} of {realm.replicas} replicas are connected: kills are not durable"
        return Check("replication", False, found, "start the missing replicas, or lower `replicas` in realm.toml")
    return _window(patient, replicas)


def _window(patient: Patient, replicas: int) -> Check:
    """Compare the time for which a replaced primary still answers with ``failover_window``."""
    settings, window_ms = patient.client.config_get("*"), patient.realm.failover_window_ms
    if settings.get("cluster-enabled") == "yes":
        # A node is pinged after half of the timeout, and fails after the whole.
        lasts_ms = int(settings["cluster-node-timeout"]) * 3 // 2 + 500
    elif int(settings.get("min-replicas-to-write", 0)):
        # The server counts whole seconds, and checks once per second.
        lasts_ms = int(settings["min-replicas-max-lag"]) * 1000 + 2000
    else:
        found = "min-replicas-to-write is 0: a replaced primary still grants leases"
        return Check(
            "replication", False, found, "set min-replicas-to-write 1 and min-replicas-max-lag 2 on each server"
        )
    if lasts_ms > window_ms:
        found = f"a replaced primary answers for {lasts_ms} ms, and failover_window is {window_ms} ms"
        return Check("replication", False, found, f'set failover_window = "{lasts_ms}ms" in realm.toml')
    return Check("replication", True, f"{replicas} replicas; a failover delays a kill by at most {lasts_ms} ms")


def _registry(patient: Patient) -> Check:
    header = patient.store.header()
    registry = patient.store.unacked(2**53, 0)
    # After a clock was set back, leases would seem to last longer than they do.
    ahead = [name for name, last, *_ in registry.missing if last > registry.at_ms + 1000]
    if ahead:
        found = f"{ahead[0]} has a time in the future: the store's clock was set back"
        return Check("registry", False, found, "set the store's clock by NTP, and restart its verifiers")
    # A verifier is ahead if the store lost entries (a restored file, a failover), or if its own report is wrong.
    claim = patient.store.ahead()
    if claim is not None:
        found = f"{claim.verifier} has applied entry {claim.seq}, and the store is at entry {header.seq}"
        mend = "see the mint's log: if the store lost entries, the mint begins a new history"
        return Check("registry", False, found, mend)
    age_ms = registry.at_ms - registry.since_ms
    if age_ms <= header.lease_ms:
        return Check("registry", True, f"began {age_ms} ms ago; kills are confirmed when it is older than a lease")
    return Check("registry", True, f"began {show_span(age_ms)} ago; recent verifiers: {registry.verifiers}")


def _verifiers(patient: Patient) -> Check:
    header = patient.store.header()
    # Two looks: a verifier that is behind at one moment may only be a message late.
    behind = {seen.id for seen in patient.store.verifiers() if seen.applied < header.seq}
    if behind:
        time.sleep(SETTLE_S)
    seen = patient.store.verifiers()
    states = {one.id: state_of(one.age_ms, header.lease_ms) for one in seen}
    # A gone one has most likely ended.
    late = [one for one in seen if one.applied < header.seq and one.id in behind and states[one.id] != "gone"]
    silent = [one for one in seen if states[one.id] != "live"]
    if late:
        worst = max(late, key=lambda verifier: verifier.age_ms)
        found = f"{len(late)} of {len(seen)} are behind: {worst.id} is at entry {worst.applied} of {header.seq}"
        mend = "check that process and its network to the store; until it follows, it refuses every call"
        return Check("verifiers", False, f"{found}, last probe {show_span(worst.age_ms)} ago", mend)
    quiet = ""
    if silent:
        named = f"{silent[0].id}, last probe {show_span(silent[0].age_ms)} ago"
        quiet = f"; {len(silent)} more have ended, or have no lease and refuse every call ({named})"
    return Check("verifiers", True, f"{len(seen) - len(silent)} live, which have applied every kill{quiet}")


def _nonces(patient: Patient) -> Check:
    """Check that live processes of one audience share their nonces; behind a relay, journals name them."""
    lease_ms, folder = patient.store.header().lease_ms, patient.realm.journals_dir
    # The registry names verifiers that follow the store; those behind a relay are known by their journals alone.
    ids = [seen.id for seen in patient.store.verifiers() if seen.age_ms <= lease_ms]
    if folder.is_dir():
        ids += [name for journal in folder.iterdir() if journal.is_dir() for name in writers(journal)]
    found = apart(ids)
    if found:
        audience, names = next(iter(found.items()))
        shown = f"{len(names)} processes of {audience} do not share nonces: each accepts the same call once"
        mend = 'set "nonces": "redis://HOST" in their service file, or run one process'
        return Check("nonces", False, f"{shown} ({', '.join(names[:3])})", mend)
    return Check("nonces", True, "the live processes of each audience share their nonces")


CHECKS: Final = (
    _persistence,
    _eviction,
    _buffer,
    _functions,
    _access,
    _rights,
    _replication,
    _registry,
    _verifiers,
    _nonces,
)
