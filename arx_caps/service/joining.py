# SPDX-License-Identifier: Apache-2.0
"""Enrol a service's own key with an enrolment token, and write the file it starts from.  SPEC 21.1.

The key is made where the service runs and never leaves it.  Whoever repeats a call whose answer was lost finds the key
enrolled, because a token is good once.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from arx_caps.agent.mint_client import MintClient
from arx_caps.keyfile import KeyFile, write_secret
from arx_caps.service.fetch import Fetched, fetch_keys, require_private
from arx_verifier.errors import ArxError, SettingsError, UnavailableError
from arx_verifier.revocation.store_url import keeps_nonces, without_login


class Invitation(msgspec.Struct, frozen=True):
    """What an operator gives to whoever runs a service.  ``repr`` shows no token.

    Attributes:
        audience: The service that it is for.
        enrolment: The enrolment token, a secret, good once.
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
    """Enrol a key of a service's own and write its service file.

    Args:
        invitation: With an enrolment token.
        mint: The mint.
        out: The service file to write; nothing may be there.
        key_out: The key's file; made when it is not there, else the key of an earlier try.
        journal: Folder of the decision journal; beside the service file when left out.
        store: URL of the revocation store or of a relay; as the mint says when left out.
        ca: File of a further authority for TLS, which the service file will name.

    Returns:
        What the mint gave.

    Raises:
        SettingsError: A file exists already, is not of this service, or cannot be written; or others could read the
            token on its way.
        TokenError: The enrolment token is unknown, used or over.
        StoreError: The mint does not answer; the key's file stays, to try again with.
    """
    require_private(mint)  # the token would be read as well
    if out.exists():
        raise SettingsError(f"{out} exists; it is not overwritten")
    made = not key_out.exists()
    key = KeyFile.generate("service", invitation.audience, mint.issuer) if made else KeyFile.load(key_out)
    if (key.role, key.name) != ("service", invitation.audience):
        raise SettingsError(f"{key_out} is the key of {key.subject}, not of service:{invitation.audience}")
    if made:
        key.save(key_out)
    try:
        fetched = _fetched(invitation, mint, key)
    except ArxError as error:
        if made and not isinstance(error, UnavailableError):
            key_out.unlink()  # a key that nobody knows would look like a service's
        raise
    content: dict[str, Any] = {"v": 1, "realm": fetched.realm, "audience": fetched.audience, "keys": fetched.texts}
    where = store or fetched.store
    content |= {"max_ttl_ms": fetched.max_ttl_ms, "store": where, "issuer": mint.issuer}
    if where is not None and keeps_nonces(where):
        content["nonces"] = without_login(where)
    content |= {} if ca is None else {"ca": str(Path(ca).absolute())}
    folder = journal or out.with_name(f"{out.stem}-journal")
    content |= {"key_file": str(key_out.absolute()), "journal": str(folder.absolute())}
    write_secret(out, json.dumps(content, indent=2, sort_keys=True).encode() + b"\n")
    return fetched


def _fetched(invitation: Invitation, mint: MintClient, key: KeyFile) -> Fetched:
    try:
        mint.call("POST", "/v1/services/keys", key=key.key, body={"enrolment": invitation.enrolment})
    except ArxError as error:
        if error.code not in ("bad_enrolment", "key_enrolled"):
            raise
        try:
            return fetch_keys(mint, key.key)  # an earlier try may have got as far
        except ArxError:
            raise error from None
    return fetch_keys(mint, key.key)
