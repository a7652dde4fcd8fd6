# SPDX-License-Identifier: Apache-2.0
"""Ask the mint for a service's audience keys, and write them into its service file.  SPEC 21.2.

What came is checked before anything is written: a file that a verifier can start from is never replaced by one that it
cannot.  When to ask is not decided here.
"""

import json
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from arx_caps.agent.mint_client import MintClient, is_private
from arx_caps.keyfile import SigningKey, read_secret, replace_secret
from arx_verifier.errors import MalformedTokenError, RequestError, SettingsError, StoreError
from arx_verifier.names import is_kid
from arx_verifier.request import read_json_object
from arx_verifier.token.keyring import KEY_BYTES
from arx_verifier.token.wire import bytes_of

KEYS_PATH = "/v1/keys"


class AudienceKeyFact(msgspec.Struct, frozen=True):
    """One audience key as the mint gives it.  ``repr`` shows its id."""

    kid: str
    key: str

    def __repr__(self) -> str:
        return f"<AudienceKeyFact {self.kid}>"


class Fetched(msgspec.Struct, frozen=True):
    """What the mint answers to a service.  Members that are not known here are passed over.

    Attributes:
        realm: The realm's name.
        audience: The service.
        keys: Its keys, all of which are to be accepted.
        max_ttl_ms: The realm's longest token life, ms.
        refresh_ms: How long these keys are good for before the mint is asked again, ms.
        store: URL of the revocation store, without a login, or None.
    """

    realm: str
    audience: str
    keys: Annotated[tuple[AudienceKeyFact, ...], Meta(min_length=1)]
    max_ttl_ms: Annotated[int, Meta(ge=1000)]
    refresh_ms: Annotated[int, Meta(ge=100)]
    store: str | None = None

    @property
    def texts(self) -> dict[str, str]:
        """The keys as a service file has them."""
        return {each.kid: each.key for each in self.keys}


def fetch_keys(mint: MintClient, key: SigningKey) -> Fetched:
    """Ask for the keys of the service that a key belongs to.

    Raises:
        SettingsError: Others could read the keys on their way.
        StoreError: The mint does not answer, or what it answers cannot be used.
        UnavailableError: It answers that it cannot do this now.
        TokenError: It does not know this key.
    """
    require_private(mint)
    answer = mint.call("GET", KEYS_PATH, key=key)
    try:
        fetched = msgspec.convert(answer, Fetched)
        sizes = {len(bytes_of(text)) for text in fetched.texts.values()}
    except (msgspec.ValidationError, MalformedTokenError):
        sizes = set()  # not chained: what was sent could be quoted
    if sizes != {KEY_BYTES} or not all(map(is_kid, fetched.texts)):
        raise StoreError(f"what {mint.issuer} answers are no audience keys; is it a mint of this version?")
    return fetched


def require_private(mint: MintClient) -> None:
    """Refuse a way to the mint on which others could read what it answers.

    Raises:
        SettingsError: Plain HTTP to another machine.
    """
    if not is_private(mint.issuer):
        raise SettingsError(f"{mint.issuer}: keys travel by https, or on one machine; give the mint's https address")


def write_keys(path: Path, fetched: Fetched) -> bool:
    """Write keys into a service file, if it has others; all else in it stays as it is.

    Returns:
        Whether it was written.

    Raises:
        SettingsError: The file cannot be read or written, or is of another service or realm.
    """
    try:
        content = read_json_object(read_secret(path))
    except RequestError as error:
        raise SettingsError(f"{path} is not a service file: {error}") from None
    said, came = (content.get("realm"), content.get("audience")), (fetched.realm, fetched.audience)
    if said != came:
        raise SettingsError(f"{path} is the file of {said[1]} in realm {said[0]}; the key is of {came[1]} in {came[0]}")
    fresh = {**content, "keys": fetched.texts, "max_ttl_ms": fetched.max_ttl_ms}
    if fresh == content:
        return False
    replace_secret(path, json.dumps(fresh, indent=2, sort_keys=True).encode() + b"\n")
    return True
