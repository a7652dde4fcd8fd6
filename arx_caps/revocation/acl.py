# SPDX-License-Identifier: Apache-2.0
"""Access rules of the stores: the least that each role needs, and where a user's rights exceed it.  SPEC 10, 17.5.

``docs/store.md`` lists what an attacker with each role's login can still do.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from arx_caps.revocation.wire import Keys

# A function of the store runs with its caller's rights.  So a role needs every command that its functions use, and can
# also send these commands alone.  Servers warn of `+fcall|NAME` at each start; it is kept: what a function of another
# role writes before the server refuses a command of it is not undone.
# Every client authenticates, and asks which server it is connected to.
CONNECT: Final = "hello auth ping select client|setname client|setinfo role cluster|slots time info"
FOLLOW: Final = (
    "fcall|arx1_probe fcall|arx1_copy fcall|arx1_leave ssubscribe sunsubscribe hmget hlen hscan xlen xrange zcard"
    " zadd zscore zrem zremrangebyrank zremrangebylex"
)
END: Final = (
    "fcall|arx1_bump fcall|arx1_unacked hmget hget hgetall hset hdel hlen xadd xtrim xlen xrange"
    " zadd zscore zrem zrange zrangebyscore zremrangebyrank spublish waitaof"
)
BEGIN: Final = "fcall|arx1_use fcall|arx1_init fcall|arx1_rotate fcall|arx1_attest del"
LOAD: Final = "function|load function|list"
SPEND: Final = "fcall|arx1_spend set"  # in a selector, for nonces alone: SET can overwrite every key that it reaches
# The ledger is another server: none of the roles below has its rights.  A service's user has those of its functions and
# reads nothing else: these have names for their keys that it cannot find out, so that the same commands, sent alone,
# reach none of them.  The mint's user loads the functions, tops up, and reads.
LEDGER: Final = "ledger"
LEDGER_MINT: Final = "ledger-mint"
DRAW: Final = (
    "fcall|arx2_take fcall|arx2_settle fcall|arx2_undo fcall|arx2_ledger"
    " hget hmget hset hdel hlen del zadd zrangebyscore zrem"
)
KEEP_BUDGETS: Final = (
    f"{DRAW} fcall|arx2_register fcall|arx2_top_up fcall|arx2_marks fcall|arx2_names"
    " function|load hgetall zrevrange zscan rename"
)
# In a cluster a caller waits for the replicas, and its user keeps used calls too, in a selector as above.
CONFIRM: Final = "wait asking"
SPEND_THERE: Final = "fcall|arx3_spend hmget hset set time info"
# Parts of a realm's data, by the last member of their keys.
READ_BY_ALL: Final = ("h", "k", "f", "log", "v", "a", "r")


class Role(NamedTuple):
    """The rights of a role.

    Attributes:
        commands: Its commands, separated by spaces.
        parts: The parts of the realm's data that it reads or writes.
    """

    commands: str
    parts: tuple[str, ...]


ROLES: Final = {
    "verifier": Role(f"{CONNECT} {FOLLOW}", READ_BY_ALL),
    "operator": Role(f"{CONNECT} {END}", (*READ_BY_ALL, "x")),
    "mint": Role(f"{CONNECT} {FOLLOW} {END} {BEGIN}", (*READ_BY_ALL, "x", "u")),
    "admin": Role(f"{CONNECT} {LOAD} {END} {BEGIN}", (*READ_BY_ALL, "x")),
}


ROLE_NAMES: Final = (*ROLES, LEDGER, LEDGER_MINT)


def ledger_commands(role: str, *, cluster: bool) -> list[str]:
    """Return the commands of a role of the ledger, without those for used calls."""
    words = f"{CONNECT} {DRAW if role == LEDGER else KEEP_BUDGETS} {CONFIRM if cluster else ''}".split()
    return sorted(dict.fromkeys(words))


def user_name(role: str, realm: str) -> str:
    """Return the name of a role's user in the store."""
    return f"arx-{role}-{realm}"


def rules(role: str, realm: str, password: str, *, cluster: bool = False) -> list[str]:
    """Return the access rules of a role's user.

    Args:
        role: One of ``ROLE_NAMES``.
        realm: The realm.
        password: The password; the rules contain only its SHA-256.
        cluster: For the roles of the ledger: whether it is a cluster, which keeps used calls too.

    Returns:
        The arguments of ``ACL SETUSER NAME``.
    """
    digest = hashlib.sha256(password.encode()).hexdigest()
    if role in (LEDGER, LEDGER_MINT):
        rights = [f"+{command}" for command in ledger_commands(role, cluster=cluster)]
        spending = _spending(realm, SPEND_THERE) if cluster else _both(realm)
        more = [f"({' '.join(spending)})"] if role == LEDGER else []
        return ["reset", "on", f"#{digest}", "-@all", *rights, f"~{_budgets(realm, cluster=cluster)}", *more]
    what = ROLES[role]
    tag = Keys.of(realm).header[:-1]
    commands = sorted(dict.fromkeys(what.commands.split()))
    keys = [f"~{tag}{part}" for part in what.parts]
    more = [f"({' '.join(_spending(realm))})"] if role == "verifier" else []
    # `reset` and `-@all` first: rights of an earlier version must not stay beside the new ones.
    return ["reset", "on", f"#{digest}", "-@all", *(f"+{command}" for command in commands), *keys, f"&{tag}ch", *more]


def _budgets(realm: str, *, cluster: bool) -> str:
    # A bucket's tag has two digits; no realm has keys of one server in a cluster.
    return f"arx:budget:{{{realm}.[0-9][0-9]}}:*" if cluster else f"arx:budget:{{{realm}}}:*"


def _both(realm: str) -> list[str]:
    """Return the rights to spend a call and draw its cost at once, where one server keeps both."""
    return ["+fcall|arx2_call", "+set", f"~{_budgets(realm, cluster=False)}", f"~arx:nonce:{realm}:*"]


def _spending(realm: str, commands: str = SPEND) -> list[str]:
    """Return the rights to write nonces where the realm's store, or its ledger's cluster, keeps them."""
    # A selector of its own: with SET on all keys of the role, a stolen verifier's login could overwrite kills.
    return [*(f"+{command}" for command in commands.split()), f"~arx:nonce:{realm}:*"]


def new_password() -> str:
    """Return a new random password."""
    return secrets.token_urlsafe(32)


def too_wide(user: Mapping[str, Any], realm: str, name: str = "") -> list[str]:
    """Return the rights of a user of the store that its role does not need, as texts.

    Args:
        user: The answer of ``ACL GETUSER``.
        realm: The realm.
        name: The user's name.  A name of ``user_name`` determines the role; any other user may have every role's
            rights.
    """
    tag = Keys.of(realm).header[:-1]
    role = next((role for role in ROLES if user_name(role, realm) == name), None)
    needed = {command for known in ROLES for command in ROLES[known].commands.split() if role in (known, None)}
    excess = []
    keys = [text for text in _words(user.get("keys")) if not text.startswith(f"~{tag}") or "*" in text]
    channels = [text for text in _words(user.get("channels")) if text != f"&{tag}ch"]
    words = [*_words(user.get("commands")), *_words(user.get("categories"))]
    wide = sorted({word for word in words if word.startswith("+") and word[1:].lower() not in needed})
    if keys:
        excess.append(f"keys beyond the realm's parts ({' '.join(keys[:3])})")
    if channels:
        excess.append(f"channels beyond the realm's ({' '.join(channels[:3])})")
    if wide:
        whose = "its role does not need" if role else "no role needs"
        excess.append(f"commands that {whose} ({' '.join(wide[:3])})")
    allowed = {"-@all", *_spending(realm)}
    if any(not allowed.issuperset(_selector(selector)) for selector in user.get("selectors") or ()):
        excess.append("further rights in selectors")
    if has_no_password(user):
        excess.append("no password")
    return excess


def exceeds_ledger(user: Mapping[str, Any], realm: str, *, role: str = LEDGER, cluster: bool = False) -> bool:
    """Return whether a user of the ledger has rights that its role does not need.

    Args:
        user: The answer of ``ACL GETUSER``.
        realm: The realm.
        role: ``LEDGER`` or ``LEDGER_MINT``.
        cluster: Whether the ledger is a cluster.
    """
    words = {*_words(user.get("commands")), *_words(user.get("categories"))}
    granted = {word[1:].lower() for word in words if word.startswith("+")}
    keys = set(_words(user.get("keys")))
    needed = {*ledger_commands(role, cluster=cluster)}
    spending = _spending(realm, SPEND_THERE) if cluster else _both(realm)
    allowed = {"-@all", *(spending if role == LEDGER else ())}
    wide = any(not allowed.issuperset(_selector(selector)) for selector in user.get("selectors") or ())
    return (
        wide or not granted <= needed or not keys <= {f"~{_budgets(realm, cluster=cluster)}"} or has_no_password(user)
    )


def is_on(user: Mapping[str, Any]) -> bool:
    """Return whether a client can log in as this user."""
    return "on" in _words(user.get("flags"))


def has_no_password(user: Mapping[str, Any]) -> bool:
    """Return whether a client can log in as this user without a password."""
    return "nopass" in _words(user.get("flags"))


def reaches(user: Mapping[str, Any], realm: str) -> bool:
    """Return whether a user can read or write a realm's kills, selectors not considered.

    Args:
        user: The answer of ``ACL GETUSER``.
        realm: The realm.
    """
    header = Keys.of(realm).header
    patterns = [text.partition("~")[2] for text in _words(user.get("keys"))]
    return any(fnmatchcase(header, pattern.replace("[^", "[!")) for pattern in patterns)


def is_named_for(user: Mapping[str, Any], realm: str) -> bool:
    """Return whether a user's rights name the realm's own keys, because the user was made for the realm.

    Args:
        user: The answer of ``ACL GETUSER``.
        realm: The realm.
    """
    tag = Keys.of(realm).header[:-1]
    return any(text.partition("~")[2].startswith(tag) for text in _words(user.get("keys")))


def _selector(rights: Any) -> list[str]:
    """Return the rights in a selector of ACL GETUSER, which is a mapping or a flat list of names and values."""
    members = rights if isinstance(rights, Mapping) else dict(zip(rights[::2], rights[1::2], strict=True))
    return [word for name in ("commands", "keys", "channels") for word in _words(members.get(name))]


def _words(value: Any) -> Iterable[str]:
    """Return the words of a member of ACL GETUSER, which is a text or a list of texts."""
    if isinstance(value, str):
        return value.split()
    return [str(word) for word in value or ()]
