# SPDX-License-Identifier: Apache-2.0
"""The least that each role needs in the store, as rules of its access control.  SPEC 10.

A function runs with its caller's rights, so a role needs the commands that its functions use, and could also send them
by themselves.  What that leaves open is said with each role in ``docs/store.md``.  What a user already has is measured
by ``too_wide``.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from arx_caps.revocation.wire import Keys

# Every client: say who it is, learn which server it speaks to.
CONNECT: Final = "hello auth ping select client|setname client|setinfo role cluster|slots time info"
FOLLOW: Final = (
    "fcall|arx1_probe fcall|arx1_copy fcall|arx1_leave ssubscribe sunsubscribe hmget hlen hscan xlen xrange zcard"
    " zadd zscore zrem zremrangebyrank zremrangebylex"
)
END: Final = (
    "fcall|arx1_bump fcall|arx1_unacked hmget hget hgetall hset hdel hlen xadd xtrim xlen xrange"
    " zadd zscore zrem zrange zrangebyscore zremrangebyrank spublish waitaof"
)
BEGIN: Final = "fcall|arx1_init fcall|arx1_rotate fcall|arx1_attest del"
LOAD: Final = "function|load function|list"
SPEND: Final = "fcall|arx1_spend set"  # of used calls alone, in a selector: SET would overwrite whatever it reaches
# Parts of a realm's data, by the last member of their names.
READ_BY_ALL: Final = ("h", "k", "f", "log", "v", "a", "r")


class Role(NamedTuple):
    """What a role may do.

    Attributes:
        commands: Its commands.
        parts: The parts of the realm's data that it reaches.
    """

    commands: str
    parts: tuple[str, ...]


ROLES: Final = {
    "verifier": Role(f"{CONNECT} {FOLLOW}", READ_BY_ALL),
    "operator": Role(f"{CONNECT} {END}", (*READ_BY_ALL, "x")),
    "mint": Role(f"{CONNECT} {FOLLOW} {END} {BEGIN}", (*READ_BY_ALL, "x")),
    "admin": Role(f"{CONNECT} {LOAD} {END} {BEGIN}", (*READ_BY_ALL, "x")),
}


def user_name(role: str, realm: str) -> str:
    """Return the name of a role's user."""
    return f"arx-{role}-{realm}"


def rules(role: str, realm: str, password: str) -> list[str]:
    """Write the rules of a role's user.

    Args:
        role: One of ``ROLES``.
        realm: The realm.
        password: Only its SHA-256 is written.

    Returns:
        The arguments of ``ACL SETUSER NAME``.
    """
    what = ROLES[role]
    tag = Keys.of(realm).header[:-1]
    commands = sorted(dict.fromkeys(what.commands.split()))
    digest = hashlib.sha256(password.encode()).hexdigest()
    keys = [f"~{tag}{part}" for part in what.parts]
    more = [f"({' '.join(_spending(realm))})"] if role == "verifier" else []
    return ["reset", "on", f"#{digest}", "-@all", *(f"+{command}" for command in commands), *keys, f"&{tag}ch", *more]


def _spending(realm: str) -> list[str]:
    """Write the rights to remember used calls where the realm's store keeps them."""
    return [*(f"+{command}" for command in SPEND.split()), f"~arx:nonce:{realm}:*"]


def new_password() -> str:
    """Draw a password."""
    return secrets.token_urlsafe(32)


def too_wide(user: Mapping[str, Any], realm: str, name: str = "") -> list[str]:
    """Say what a user of the store has that its role does not need.

    Args:
        user: As ``ACL GETUSER`` tells it.
        realm: The realm.
        name: The user's name; one that ``user_name`` gives says the role, any other may have every role's rights.
    """
    tag = Keys.of(realm).header[:-1]
    role = next((role for role in ROLES if user_name(role, realm) == name), None)
    needed = {command for known in ROLES for command in ROLES[known].commands.split() if role in (known, None)}
    found = []
    keys = [text for text in _words(user.get("keys")) if not text.startswith(f"~{tag}") or "*" in text]
    channels = [text for text in _words(user.get("channels")) if text != f"&{tag}ch"]
    words = [*_words(user.get("commands")), *_words(user.get("categories"))]
    wide = sorted({word for word in words if word.startswith("+") and word[1:].lower() not in needed})
    if keys:
        found.append(f"keys beyond the realm's parts ({' '.join(keys[:3])})")
    if channels:
        found.append(f"channels beyond the realm's ({' '.join(channels[:3])})")
    if wide:
        whose = "its role does not need" if role else "no role needs"
        found.append(f"commands that {whose} ({' '.join(wide[:3])})")
    allowed = {"-@all", *_spending(realm)}
    if any(not allowed.issuperset(_selector(each)) for each in user.get("selectors") or ()):
        found.append("further rights in selectors")
    if has_no_password(user):
        found.append("no password")
    return found


def is_on(user: Mapping[str, Any]) -> bool:
    """Tell whether anybody can be this user."""
    return "on" in _words(user.get("flags"))


def has_no_password(user: Mapping[str, Any]) -> bool:
    """Tell whether everybody can be this user."""
    return "nopass" in _words(user.get("flags"))


def reaches(user: Mapping[str, Any], realm: str) -> bool:
    """Tell whether a user can touch a realm's kills, selectors left aside."""
    header = Keys.of(realm).header
    patterns = [text.partition("~")[2] for text in _words(user.get("keys"))]
    return any(fnmatchcase(header, pattern.replace("[^", "[!")) for pattern in patterns)


def is_named_for(user: Mapping[str, Any], realm: str) -> bool:
    """Tell whether a user's rights name the realm's own keys: it was made for the realm."""
    tag = Keys.of(realm).header[:-1]
    return any(text.partition("~")[2].startswith(tag) for text in _words(user.get("keys")))


def _selector(rights: Any) -> list[str]:
    """Read what one of the selectors of ACL GETUSER permits; its members are named, or names and values in turn."""
    members = rights if isinstance(rights, Mapping) else dict(zip(rights[::2], rights[1::2], strict=True))
    return [word for name in ("commands", "keys", "channels") for word in _words(members.get(name))]


def _words(value: Any) -> Iterable[str]:
    """Read a member of ACL GETUSER, which is a text or a list of them."""
    if isinstance(value, str):
        return value.split()
    return [str(word) for word in value or ()]
