# SPDX-License-Identifier: Apache-2.0
"""Which users of the store ``arx doctor`` looks at, and what they have that their role does not need.  SPEC 10.

It can only be asked by an administrator, whose own rights are not the point: what the realm's own user, its followers'
and everybody's have is.
"""

from typing import Any, Final

from arx_caps.revocation import acl
from arx_verifier.revocation import Address

ANYBODY: Final = "default"


def wide_users(client: Any, realm: str, store: str | None) -> tuple[int, dict[str, list[str]]]:
    """Look at the users that concern a realm.

    Args:
        client: The store's server, as a user that may ask about users.
        realm: The realm.
        store: The address that the realm's folder names, or None.

    Returns:
        How many were looked at, and what is too wide, by name.
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
            continue  # the administrator, who asks
        looked_at += 1
        if found := acl.too_wide(user, realm, name):
            wide[name] = found
    return looked_at, wide
