# SPDX-License-Identifier: Apache-2.0
"""Enrol a service's own key with an enrolment token, and write its service file.  CONTROL 3.1.

The key is generated where the service runs, and never leaves it.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.keyfile import KeyFile, write_secret
from arx_caps.service.fetch import Fetched, fetch_keys, require_private
from arx_verifier.errors import ArxError, SettingsError, UnavailableError
from arx_verifier.revocation.store_url import is_cluster, keeps_nonces, without_login


class Invitation(msgspec.Struct, frozen=True):
    """An operator's invitation for a service.  ``repr`` shows no token.

    Attributes:
        audience: The service.
        enrolment: The enrolment token, a secret that the service can use once.
        issuer: The mint's URL.
    """

    audience: str
    enrolment: str
    issuer: str

    def __repr__(self) -> str:
        return f"<Invitation for {self.audience}>"


def join_service(
    invitation: Invitation,
    mint: MintClient,
    *,
    out: Path,
    key_out: Path,
    journal: Path | None = None,
    store: str | None = None,
    ca: str | None = None,
) -> Fetched:
    """Enrol a service's own key, and write its service file.

    Args:
        invitation: The invitation.
        mint: The mint.
        out: The service file to write; it must not exist.
        key_out: The key's file; generated if it is missing, else the key of an earlier attempt.
        journal: Folder of the decision journal; beside the service file when omitted.
        store: URL of the revocation store or of a relay; the mint's when omitted.
        ca: File of a further authority for TLS, to be named in the service file.

    Returns:
        The mint's answer.

    Raises:
        SettingsError: A file exists, is not of this service, or cannot be written; or the way to the mint is not
            private.
        TokenError: The enrolment token is unknown, used or expired.
        StoreError: The mint does not answer; the key's file stays, for another attempt.
    """
    require_private(mint)  # before the enrolment token is sent
    # Before the enrolment token is spent: it works once.
    if out.exists():
        raise SettingsError(f"{out} exists; it is not overwritten")
    # The key of an earlier attempt is used again: the mint may have enrolled it although its answer was lost.
    made = not key_out.exists()
    key = KeyFile.generate("service", invitation.audience, mint.issuer) if made else KeyFile.load(key_out)
    if (key.role, key.name) != ("service", invitation.audience):
        raise SettingsError(f"{key_out} is the key of {key.subject}, not of service:{invitation.audience}")
    if made:
        # Before it is enrolled: a key that the mint knows and no file holds could never be used.
        key.save(key_out)
    try:
        fetched = _fetched(invitation, mint, key)
    except ArxError as error:
        if made and not isinstance(error, UnavailableError):
            key_out.unlink()  # a key that the mint does not know would look like a service's
        raise
    content: dict[str, Any] = {"v": 1, "realm": fetched.realm, "audience": fetched.audience, "keys": fetched.texts}
    where = store or fetched.store
    content |= {"memory": {fact.kid: fact.key for fact in fetched.memory}} if fetched.memory else {}
    content |= {"max_ttl_ms": fetched.max_ttl_ms, "store": where, "issuer": mint.issuer}
    # Not a cluster of kills: each of its writes waits for the disk, and no verifier may load functions there.
    if where is not None and keeps_nonces(where) and not is_cluster(where):
        content["nonces"] = without_login(where)
    content |= {} if fetched.ledger is None else {"ledger": fetched.ledger}
    content |= {} if ca is None else {"ca": str(Path(ca).absolute())}
    folder = journal or out.with_name(f"{out.stem}-journal")
    content |= {"key_file": str(key_out.absolute()), "journal": str(folder.absolute())}
    # Last, as this file alone is enough to start a verifier.
    write_secret(out, json.dumps(content, indent=2, sort_keys=True).encode() + b"\n")
    return fetched


def _fetched(invitation: Invitation, mint: MintClient, key: KeyFile) -> Fetched:
    try:
        mint.call("POST", "/v1/services/keys", key=key.key, body={"enrolment": invitation.enrolment})
    except ArxError as error:
        if error.code not in ("bad_enrolment", "key_enrolled"):
            raise
        try:
            # The answer to an earlier attempt may have been lost: the token is used then, but the key is enrolled.
            return fetch_keys(mint, key.key)
        except ArxError:
            raise error from None
    return fetch_keys(mint, key.key)
