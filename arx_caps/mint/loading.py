# SPDX-License-Identifier: Apache-2.0
"""Which policy is in force: read from the file, given over the API, or put in force at another mint of the realm.

A policy is checked whole before anything changes, and archived before it is in force: no digest stands in a token that
could not be shown again.  At a start the newer of two counts, the file or what was put in force last; so a mint with an
old copy of the file takes no other mint back to it.
"""

import logging
from typing import TYPE_CHECKING, Final

from arx_caps.keyfile import replace_secret
from arx_caps.mint.events import Event
from arx_caps.mint.policy import MAX_BYTES, Policy
from arx_verifier.errors import RequestError, SettingsError

if TYPE_CHECKING:
    from arx_caps.mint.core import Mint

GIVEN: Final = "policy.toml"  # what errors call a text that came without a file

_log = logging.getLogger(__name__)


def settle_policy(mint: "Mint") -> None:
    """At a start: take the file's policy, unless another was put in force since the file was written.

    Raises:
        StoreError: The database does not answer.
        AuditError: It could not be recorded.
    """
    last = mint.state.policy_in_force()
    if last is not None and last["digest"] == mint.policy.digest:
        return
    path = mint.realm.policy_path
    if last is not None and path.stat().st_mtime_ns // 1_000_000 <= last["in_force_at"]:
        _log.warning("%s is older than the policy in force, %s, and is not used", path, last["digest"])
        mint.policy = Policy.parse(last["text"], f"policy {last['digest']}")
        return
    _put(mint, mint.policy, "mint")


def reload_policy(mint: "Mint", by: str) -> Policy:
    """Read the policy file again and put it in force.

    Raises:
        SettingsError: It has a mistake; the old one stays in force.
        AuditError: The change could not be recorded; the old one stays in force.
    """
    policy = Policy.load(mint.realm.policy_path)
    if policy.digest != mint.policy.digest or mint.state.policy(policy.digest) is None:
        _put(mint, policy, by)
    return policy


def load_policy(mint: "Mint", text: str, by: str) -> Policy:
    """Put a policy in force that somebody sent, and write it into the realm's folder, where that can be written.

    Raises:
        RequestError: It has a mistake, with line and key; the old one stays in force.
        AuditError: The change could not be recorded; the old one stays in force.
    """
    try:
        raw = text.encode()
        if len(raw) > MAX_BYTES:
            raise SettingsError(f"{GIVEN}: is larger than {MAX_BYTES} bytes")
        policy = Policy.parse(text, GIVEN)
    except (SettingsError, UnicodeEncodeError) as error:
        raise RequestError(str(error), code="policy") from error
    _put(mint, policy, by)
    try:
        replace_secret(mint.realm.policy_path, raw)
    except SettingsError as error:
        # A folder that was mounted to be read: the database has it, and is newer than the file at the next start.
        _log.warning("policy %s is in force, and the file stays as it was: %s", policy.digest, error)
    return policy


def follow_policy(mint: "Mint") -> None:
    """Take the policy that another mint of the realm put in force.

    Raises:
        StoreError: The database does not answer.
        SettingsError: This version cannot read it; the old one stays in force here.
    """
    digest = mint.state.digest_in_force()  # asked every second, and a policy may be long
    if digest is None or digest == mint.policy.digest:
        return
    last = mint.state.policy(digest)
    if last is not None:
        mint.policy = Policy.parse(last["text"], f"policy {last['digest']}")
        _log.warning("policy %s is in force: %s put it", last["digest"], last["by"])


def _put(mint: "Mint", policy: Policy, by: str) -> None:
    what = Event.of("policy.loaded", by, policy=policy.digest, before=mint.policy.digest)
    mint.state.put_policy(policy.digest, policy.text.source, by, what)
    mint.policy = policy
