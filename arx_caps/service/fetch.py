# SPDX-License-Identifier: Apache-2.0
"""Fetch a service's audience keys from the mint, and write them into its service file.  CONTROL 3.2.

``refresh`` decides when to fetch.
"""

import json
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from arx_caps.agent.sessions.mint_client import MintClient, is_private
from arx_caps.credentials.keyfile import SigningKey, read_secret, replace_secret
from arx_verifier.errors import MalformedTokenError, RequestError, SettingsError, StoreError
from arx_verifier.names import is_kid
from arx_verifier.request import read_json_object
from arx_verifier.revocation.store_url import without_login
from arx_verifier.token.keyring import KEY_BYTES
from arx_verifier.token.wire import bytes_of

KEYS_PATH = "/v1/keys"


class AudienceKeyFact(msgspec.Struct, frozen=True):
    """One audience key in the mint's answer.  ``repr`` shows its id."""

    kid: str
    key: str

    def __repr__(self) -> str:
        return f"<AudienceKeyFact {self.kid}>"


class Fetched(msgspec.Struct, frozen=True):
    """The mint's answer with a service's keys.  Unknown members are ignored.

    Attributes:
        realm: The realm's name.
        audience: The service.
        keys: Its keys; the service accepts tokens of each.
        max_ttl_ms: The realm's longest token life, ms.
        refresh_ms: How long the service uses these keys before it asks again, ms.
        store: URL of the revocation store, without a login, or None.
        ledger: URL of the Redis that keeps the realm's budgets, without a login, or None.
        memory: The memory keys, for the audience ``memory`` alone.
    """

    realm: str
    audience: str
    keys: Annotated[tuple[AudienceKeyFact, ...], Meta(min_length=1)]
    max_ttl_ms: Annotated[int, Meta(ge=1000)]
    refresh_ms: Annotated[int, Meta(ge=100)]
    store: str | None = None
    ledger: str | None = None
    memory: tuple[AudienceKeyFact, ...] = ()

    @property
    def texts(self) -> dict[str, str]:
        """The keys by id, in the form of a service file."""
        return {fact.kid: fact.key for fact in self.keys}


def fetch_keys(mint: MintClient, key: SigningKey) -> Fetched:
    """Fetch the audience keys of the service that owns a key.

    Args:
        mint: The mint.
        key: The service's own key.

    Raises:
        SettingsError: The way to the mint is not private.
        StoreError: The mint does not answer, or its answer is malformed.
        UnavailableError: The mint cannot answer now.
        TokenError: The mint does not know this key.
    """
    require_private(mint)
    answer = mint.call("GET", KEYS_PATH, key=key)
    try:
        fetched = msgspec.convert(answer, Fetched)
        sizes = {len(bytes_of(fact.key)) for fact in (*fetched.keys, *fetched.memory)}
    except (msgspec.ValidationError, MalformedTokenError):
        sizes = set()  # not chained: the text of a parser could quote a key
    # Checked before any key is used: one of another length would fail at each call, as a wrong signature.
    if sizes != {KEY_BYTES} or not all(is_kid(fact.kid) for fact in (*fetched.keys, *fetched.memory)):
        raise StoreError(f"malformed answer of {mint.issuer}: expected audience keys; is it a mint of this version?")
    return fetched


def require_private(mint: MintClient) -> None:
    """Require that other machines cannot read the mint's answers.

    Args:
        mint: The mint.

    Raises:
        SettingsError: The mint's URL is plain HTTP to another machine.
    """
    if not is_private(mint.issuer):
        # An audience key in clear on a network would let its readers forge tokens for this service.
        raise SettingsError(f"{mint.issuer}: keys travel by https, or on one machine; give the mint's https address")


def write_keys(path: Path, fetched: Fetched) -> bool:
    """Write keys into a service file if they differ from its keys; keep all else in it.

    Args:
        path: The service file.
        fetched: The mint's answer.

    Returns:
        Whether the file was written.

    Raises:
        SettingsError: The file cannot be read or written, or is of another service or realm.
    """
    try:
        content = read_json_object(read_secret(path))
    except RequestError as error:
        raise SettingsError(f"{path} is not a service file: {error}") from None
    # Everything is checked before the file is replaced: a verifier must be able to start from the new file.
    realm, audience = content.get("realm"), content.get("audience")
    if (realm, audience) != (fetched.realm, fetched.audience):
        raise SettingsError(
            f"{path} is the file of {audience} in realm {realm}; the key is of {fetched.audience} in {fetched.realm}"
        )
    fresh = {**content, "keys": fetched.texts, "max_ttl_ms": fetched.max_ttl_ms}
    if fetched.memory:
        fresh["memory"] = {fact.kid: fact.key for fact in fetched.memory}
    if fetched.ledger is not None and without_login(str(content.get("ledger"))) != fetched.ledger:
        fresh["ledger"] = fetched.ledger  # with another ledger a task could spend its budget once at each
    if fresh == content:
        return False  # verifiers read a replaced file again, which costs each a file read
    replace_secret(path, json.dumps(fresh, indent=2, sort_keys=True).encode() + b"\n")
    return True
