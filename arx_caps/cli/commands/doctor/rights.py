# SPDX-License-Identifier: Apache-2.0
"""Check that the store's users have the rights that their roles need.  SPEC 10, docs/store.md.

The server judges each command as it would if the user sent it (ACL DRYRUN); none is executed.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import redis

from arx_caps.cli.commands.doctor.check import ask_database
from arx_caps.revocation import acl
from arx_caps.revocation.wire import Keys
from arx_caps.settings.realm import Realm
from arx_verifier.revocation.store_url import Address

RECENT_S: Final = 60.0  # a follower that is refused tries again within seconds
SHOWN: Final = 4
ON_CHANNELS: Final = ("ssubscribe", "sunsubscribe", "spublish")
MOST_ARGUMENTS: Final = 5  # of the commands of a role


def narrow_users(client: Any, realm: Realm) -> dict[str, tuple[str, list[str]]]:
    """Return the users that lack rights of their role: by name, the role and what the server would refuse.

    Args:
        client: The store's server, as a user that may ask about users.
        realm: The realm.
    """
    known = {str(name) for name in client.acl_users()}
    lacking = {}
    for name, role in _roles(client, realm).items():
        if name in known and acl.is_on(client.acl_getuser(name)):
            refused = [shown for shown, command in _commands(role, realm.name) if _is_refused(client, name, command)]
            if refused:
                lacking[name] = role, refused
    return lacking


def show_lack(name: str, role: str, refused: Iterable[str]) -> str:
    """Return for people what a user may not do.

    Args:
        name: The user.
        role: Its role.
        refused: What the server refuses.
    """
    first = list(refused)
    more = f" and {len(first) - SHOWN} more" if len(first) > SHOWN else ""
    outcome = "mint grants nothing" if role == "mint" else f"{role} with it refuses every call"
    return f"the user {name} may not use {', '.join(first[:SHOWN])}{more}, so a {outcome}"


def _roles(client: Any, realm: Realm) -> dict[str, str]:
    """Return the role of each user that is known to have one."""
    # Another program on this server may have a user of a service's name: only one with rights in the realm is judged.
    known = {str(name) for name in client.acl_users()}
    # Of an enrolled service: docs/operations.md gives each a user of its name.
    services = ask_database(realm, lambda db: db.services.list()) or ()
    named = [row.audience for row in services if row.audience in known]
    named = [name for name in named if acl.is_named_for(client.acl_getuser(name), realm.name)]
    roles = dict.fromkeys([*named, *_refused_lately(client)], "verifier")
    if realm.store is not None and (own := Address(realm.store, None, realm.name).username):
        roles[own] = "mint"
    return roles | {acl.user_name(role, realm.name): role for role in acl.ROLES if role != "admin"}


def _refused_lately(client: Any) -> Iterator[str]:
    """Yield the users whose call of a function the server has refused within the last minute."""
    for entry in client.acl_log():
        members: Mapping[str, Any] = {str(name): value for name, value in entry.items()}
        sender = members.get("client-info")
        # A text or a mapping, by the protocol and the version of redis-py.
        by_function = (
            sender.get("cmd") == "fcall" if isinstance(sender, Mapping) else "cmd=fcall" in str(sender).split()
        )
        if by_function and float(members.get("age-seconds", RECENT_S)) < RECENT_S:
            yield str(members.get("username", ""))


def _commands(role: str, realm: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what a role must be able to send, with its name for people."""
    tag, needed = Keys.of(realm).header[:-1], acl.ROLES[role]
    yield from ((f"the key {tag}{part}", ("hmget", f"{tag}{part}", "0")) for part in needed.parts)
    for command in dict.fromkeys(needed.commands.split()):
        # With a key of the kills: a selector may let the user call functions on nonces alone.
        words = (*command.split("|"), *(("1",) if command.startswith("fcall|") else ()))
        yield command, (*words, f"{tag}ch" if command in ON_CHANNELS else f"{tag}h")


def _is_refused(client: Any, name: str, command: tuple[str, ...]) -> bool:
    # The server judges rights after the number of arguments, which differs.
    for words in (*((*command, *["0"] * more) for more in range(MOST_ARGUMENTS)), command[:-1]):
        try:
            return str(client.execute_command("ACL", "DRYRUN", name, *words)) != "OK"
        except redis.exceptions.NoPermissionError:
            raise
        except redis.exceptions.ResponseError:
            continue
    return False  # the server is older than ACL DRYRUN, or does not have this command
