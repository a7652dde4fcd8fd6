# SPDX-License-Identifier: Apache-2.0
"""The checks of the ledger, the Redis that keeps the realm's budgets.  SPEC 17.5.

They read as the user of its URL, and change nothing: they call no function of the ledger, whose first call after a
restart notes it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import redis

from arx_caps.cli.access.place import ledger_url, store_url
from arx_caps.cli.commands.doctor.check import Check, ask_database, find_address, load_policy, service_files
from arx_caps.cli.commands.doctor.history import row_of
from arx_caps.revocation import acl
from arx_caps.settings.durations import show_time
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError
from arx_verifier.ledger.pools import number_of
from arx_verifier.ledger.redis_ledger import COLUMNS, MOST_SHOWN, secret_of, show_pool
from arx_verifier.revocation.password import find_password
from arx_verifier.revocation.store_url import Address, is_cluster, refused_login, without_login

TIMEOUT_S: Final = 3.0
MAX_CLOCK_MS: Final = 5_000
ROLE: Final = (
    "make the mint's user with `arx redis acl --role ledger-mint`, name it in `ledger` of realm.toml, its password in"
    " ARX_LEDGER_PASSWORD; services have a user of the role ledger"
)
OPEN_NAMES: Final = (
    "its functions have no secret in the names of their keys: a service's login can write each pool without them"
)
UP: Final = "start `arx up`; if it runs, {} states why the ledger does not"
CLOCKS: Final = "set the clocks of ledger, mint and this machine"
TOP_UP: Final = (
    "start new tasks a minute later, or top up with `arx budget top-up`; "
    "a pool per hour or day is full with its next period"
)
# Commands that cannot change anything: the server checks the user's rights before it finds the arguments wrong.
SAME: Final = "the key once more"
PROBES: Final[Mapping[str, tuple[str, ...]]] = {
    "hset": ("a", "1", "b"),
    "zadd": ("no number", "a"),
    "hget": ("a",),
    "hmget": ("a",),
    "hlen": (),
    "hdel": ("a",),
    "del": (),
    "hgetall": (),
    "zrem": ("a",),
    "zrangebyscore": ("0", "0"),
    "zrevrange": ("a", "0"),
    "zscan": ("0",),
    "rename": (SAME,),
}
IN_CLUSTER: Final[Mapping[str, tuple[str, ...]]] = {"wait": ("a", "a"), "asking": ()}
FUNCTIONS: Final = (
    "arx2_take",
    "arx2_settle",
    "arx2_undo",
    "arx2_ledger",
    "arx2_register",
    "arx2_top_up",
    "arx2_marks",
    "arx2_names",
)


def check_ledger(realm: Realm, *, own: bool) -> Iterator[Check]:
    """Check a realm's ledger; nothing, where the realm has none and its policy opens no budgets.

    Args:
        realm: The realm.
        own: Whether ``arx up`` runs it, so that no other user can connect to it.
    """
    url = ledger_url(realm) if own else realm.ledger
    if url is None:
        if _opens_budgets(realm):
            found = "the policy opens budgets, and no ledger keeps them: their calls are refused (budget_unsupported)"
            yield Check(
                "ledger", False, found, "set `ledger` in realm.toml (docs/budgets.md), and refresh each service"
            )
        return
    yield from _services(realm, url)
    if is_cluster(url):
        return  # cluster.py checks it
    address = find_address("ledger", url, realm)
    if isinstance(address, Check):
        yield address
        return
    client: Any = address.client(TIMEOUT_S, decode_responses=True)
    with client:
        try:
            info = client.info()
            at = client.time()
        except (redis.RedisError, OSError) as error:
            start = UP.format(realm.ledger_dir / "valkey.log") if own else "start it, or correct `ledger` in realm.toml"
            yield no_answer(error, start)
            return
        yield _reachable(realm, url, info)
        yield Check("ledger rights", True, "only this user can open the socket") if own else check_rights(client, realm)
        yield check_eviction(info)
        yield check_persistence(client, info)
        yield _primary(info)
        try:
            yield check_history(client, realm, info, at[0] * 1000 + at[1] // 1000)
        except (redis.RedisError, OSError) as error:
            yield Check("ledger history", None, f"it could not be read ({type(error).__name__})", ROLE)


def no_answer(error: Exception, start: str) -> Check:
    """Return the check of a ledger that does not answer, or refuses the login.

    Args:
        error: The error of the client library.
        start: How to make it answer.
    """
    why = refused_login(error, "ARX_LEDGER_PASSWORD", "")
    found = (why or f"did not answer ({type(error).__name__})").rstrip(": ")
    return Check("ledger", False, f"the ledger {found}: every call with a budget is refused", ROLE if why else start)


def _opens_budgets(realm: Realm) -> bool:
    policy = load_policy(realm)
    return policy is not None and any(template.budget for template in policy.templates.values())


def _services(realm: Realm, url: str) -> Iterator[Check]:
    """Compare the service files of this folder with the realm: with two ledgers a task uses its budget at each."""
    found, wanted = [], without_login(url)
    for path, file in service_files(realm):
        if file.ledger is None:
            found.append(f"{path.name} has none, so it refuses each token with a budget")
        elif without_login(file.ledger) != wanted:
            found.append(f"{path.name} has {without_login(file.ledger)}, so a task could use its budget at each")
    if found:
        mend = "run `arx ship FILE --once` for each, and restart it"
        yield Check("ledger services", False, f"not the realm's ledger: {'; '.join(found[:5])}", mend)


def _reachable(realm: Realm, url: str, info: Mapping[str, Any]) -> Check:
    try:
        address = Address(store_url(realm), find_password("ARX_STORE_PASSWORD"), realm.name, ca=realm.ca)
        with address.client(TIMEOUT_S, decode_responses=True) as store:
            same = store.info("server").get("run_id") == info.get("run_id")
    except (redis.RedisError, OSError, ValueError, ArxError):
        same = without_login(store_url(realm)) == without_login(url)
    if same:
        found = "it is the revocation store, whose disk every write waits for"
        return Check("ledger", False, found, "set `ledger` in realm.toml to another instance, such as that of `nonces`")
    return Check("ledger", True, "answers")


def check_rights(client: Any, realm: Realm, bucket: str = "") -> Check:
    """Check that the mint's user has the rights of its role and no others, and that services' users reach no pool.

    Args:
        client: The server.
        realm: The realm.
        bucket: A bucket that it keeps of a cluster; empty for a ledger that is one server.
    """
    key, missing = f"{keys_of(realm, bucket)}doctor", []
    probes = {**PROBES, **(IN_CLUSTER if bucket else {})}
    for command, rest in probes.items():
        words = () if command in IN_CLUSTER else (key,)
        if not _permitted(client, command, *words, *(key if word is SAME else word for word in rest)):
            missing.append(command)
    missing += [name for name in FUNCTIONS if not _permitted(client, "fcall", name, "0")]
    if not _permitted(client, "function", "load", "no library"):
        missing.append("function|load")
    if missing:
        found = f"the ledger does not permit the mint's user {', '.join(missing)}"
        return Check("ledger rights", False, found, ROLE)
    header = header_of(realm, bucket)
    if not secret_of(client, header) and client.hlen(header):
        return Check("ledger rights", False, OPEN_NAMES, "run `arx redis begin-ledger --reload`")
    try:
        user = client.acl_getuser(client.acl_whoami())
    except redis.RedisError:
        return Check("ledger rights", True, "its user has those of the role, and may not ask for more")
    wide = acl.exceeds_ledger(user, realm.name, role=acl.LEDGER_MINT, cluster=bool(bucket))
    found = "its user may do more than the role ledger-mint needs" if wide else "its user has those of the role"
    return Check("ledger rights", not wide, found, ROLE if wide else "")


def _permitted(client: Any, *words: str) -> bool:
    try:
        client.execute_command(*words)
    except redis.exceptions.NoPermissionError:
        return False
    except redis.exceptions.ResponseError:
        return True  # the server has found the arguments wrong
    return True


def keys_of(realm: Realm, bucket: str) -> str:
    """Return the beginning of the keys of a bucket; empty for a ledger that is one server."""
    return f"arx:budget:{{{realm.name}.{bucket}}}:" if bucket else f"arx:budget:{{{realm.name}}}:"


def header_of(realm: Realm, bucket: str) -> str:
    """Return the header of a bucket as callers of functions name it."""
    return f"{keys_of(realm, bucket)}{'w' if bucket else 'h'}"


def check_eviction(info: Mapping[str, Any]) -> Check:
    """Check that a server evicts nothing, given its INFO."""
    policy = info.get("maxmemory_policy")
    mend = "" if policy == "noeviction" else "run CONFIG SET maxmemory-policy noeviction, and set it in its file"
    found = "noeviction" if not mend else f"{policy}: it may evict pools, so every call with a budget is refused"
    return Check("ledger eviction", not mend, found, mend)


def check_persistence(client: Any, info: Mapping[str, Any]) -> Check:
    """Check the append-only file of a server, given its INFO."""
    name = "ledger persistence"
    if str(info.get("aof_enabled")) != "1":
        found = "no append-only file: a restart exhausts all open pools, and forgets top-ups"
        return Check(name, False, found, "run CONFIG SET appendonly yes and CONFIG SET appendfsync everysec; set both")
    if info.get("aof_last_write_status", "ok") != "ok":
        return Check(name, False, "its last write to the append-only file failed", "see its log, and free disk space")
    try:
        policy = client.config_get("appendfsync").get("appendfsync")
    except redis.RedisError:
        return Check(name, True, "an append-only file; this user may not ask whether it is written each second")
    if policy == "everysec":
        return Check(name, True, "an append-only file that is written each second")
    found = "each call waits for the disk" if policy == "always" else "a crash can lose many seconds of draws"
    return Check(name, False, f"appendfsync is {policy}: {found}", "run CONFIG SET appendfsync everysec, and set it")


def _primary(info: Mapping[str, Any]) -> Check:
    name, replicas = "ledger replication", int(info.get("connected_slaves", 0))
    if info.get("role") != "master":
        found = "`ledger` names a replica, which takes no draws"
        return Check(name, False, found, "name the primary, or Sentinels: redis+sentinel://")
    # A server reports its good replicas only where it refuses writes without them.
    if replicas and "min_slaves_good_slaves" not in info:
        found = "an old primary that is cut off could give out what the new one gives out too"
        return Check(name, False, found, "set min-replicas-to-write 1 and min-replicas-max-lag 10 on each server")
    return Check(name, True, f"{replicas} replicas" if replicas else "one server without replicas")


def check_history(client: Any, realm: Realm, info: Mapping[str, Any], at: int, bucket: str = "") -> Check:
    """Find pools that a restart or a failover has exhausted, and a clock that was set back.  SPEC 17.5, 17.7.

    Args:
        client: The server.
        realm: The realm.
        info: Its INFO.
        at: Its clock, ms since the Unix epoch.
        bucket: A bucket that it keeps of a cluster; empty for a ledger that is one server.
    """
    name, begin = "ledger history", keys_of(realm, bucket) + secret_of(client, header_of(realm, bucket))
    header = client.hmget(f"{begin}{'w' if bucket else 'h'}", "run", "since", "seen", "number", "whole", "replid")
    run, since, seen, number, whole, replid = header
    away = abs(at - now_ms())
    if away > MAX_CLOCK_MS:
        return Check(name, False, f"its clock is {away} ms away", f"{CLOCKS} by NTP")
    if seen is not None and int(seen) > at + MAX_CLOCK_MS:
        found = f"its clock was set back: its time stands still at {show_time(int(seen))}, and new budgets are refused"
        return Check(name, False, found, f"{CLOCKS} by NTP, then run `arx redis begin-ledger`")
    if since is None:
        return Check(name, True, "no call has used it yet")
    goes_on = bucket and replid == info.get("master_replid2")  # a replica that took over
    if str(run).partition(":")[0] != info.get("run_id") and not goes_on:
        found = (
            "the server was restarted or replaced since the last call: the next one exhausts all pools that are open"
        )
        return Check(name, False, found, TOP_UP)
    # The newest beginning that the mint noted, with its mark.
    noted, kept = ask_database(realm, lambda db: db.ledger.beginning(bucket)) or "", int(number or 0)
    if number_of(noted) > kept or (number_of(noted) == kept > 0 and noted.split(" ")[:2] != [number, run]):
        found = (
            "the mint has seen a later beginning (failover and back): the next call exhausts all pools that are open"
        )
        return Check(name, False, found, TOP_UP)
    lost = list(_lost(client, realm, begin, (int(since), int(whole or since)), at))
    if lost:
        found = (
            f"a restart or failover at {show_time(int(since))} exhausted {len(lost)} open pools: {', '.join(lost[:3])}"
        )
        return Check(name, False, found, TOP_UP)
    return Check(name, True, f"it began {show_time(int(since))}, and no open pool is exhausted by that")


def _lost(client: Any, realm: Realm, begin: str, past: tuple[int, int], now: int) -> Iterator[str]:
    for pool in client.zrevrange(f"{begin}pools", 0, MOST_SHOWN - 1):
        fields = client.hmget(f"{begin}p:{pool}", *COLUMNS)
        if fields[0] is not None and show_pool(pool, fields, now, *past)["lost"]:
            row = row_of(realm, "task", pool.partition("/")[0])
            if row is None or row.expires_at > now:
                yield pool
