# SPDX-License-Identifier: Apache-2.0
"""Seal the tokens of people's accounts, each person's with a key of the person.  CONTROL 9.1."""

import os
import secrets
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from arx_caps.mint.context import MintContext
from arx_caps.mint.db.repositories.identity.keys import PERSON_NAME, SealedRoot
from arx_verifier.errors import ArxError, SettingsError
from arx_verifier.token import wire

NONCE_BYTES: Final = 12


class HeldAccess(NamedTuple):
    """An access token, a secret; when it expires, ms since the Unix epoch; and its scopes, as the issuer names them.

    ``identity`` is the ID token that came with it, a secret; empty for none.
    """

    token: str
    until: int
    scopes: tuple[str, ...]
    identity: str = ""

    def __repr__(self) -> str:
        return "<HeldAccess>"


class HeldTokens(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of one account, all secrets.

    Attributes:
        refresh: The refresh token; None if the issuer gives none.
        access: By the scopes that were asked for, sorted, with a space between.
    """

    refresh: str | None = None
    access: dict[str, HeldAccess] = {}

    def __repr__(self) -> str:
        return "<HeldTokens>"


def seal_tokens(mint: MintContext, row: Mapping[str, Any], tokens: HeldTokens) -> dict[str, str]:
    """Return the columns ``nonce`` and ``sealed`` of a person's tokens.

    Args:
        mint: The mint.
        row: Of a connection or its link: a seal opens for its ``id`` or ``digest``, and its ``subject``, ``name`` and
            ``account`` alone.
        tokens: The tokens.

    Raises:
        SettingsError: The person was erased meanwhile.
    """
    subject = str(row["subject"])
    if mint.db.connections.person_key(subject) is None:
        mint.db.connections.add_person_key(
            subject, mint.root_keys.seal_secret(PERSON_NAME + subject, secrets.token_bytes(32))
        )
    nonce = os.urandom(NONCE_BYTES)
    sealed = AESGCM(_key(mint, subject)).encrypt(nonce, msgspec.json.encode(tokens), _about(mint, row))
    return {"nonce": wire.text_of(nonce), "sealed": wire.text_of(sealed)}


def open_tokens(mint: MintContext, row: Mapping[str, Any], own: SealedRoot | None = None) -> HeldTokens:
    """Return the tokens that ``seal_tokens`` has sealed.

    Args:
        mint: The mint.
        row: The row with the seal.
        own: The person's key, of a person whom the database does not have any more.

    Raises:
        SettingsError: It does not open: the key is gone, or the row is another person's or account's.
    """
    try:
        key, nonce = _key(mint, str(row["subject"]), own), wire.bytes_of(str(row["nonce"]))
        plain = AESGCM(key).decrypt(nonce, wire.bytes_of(str(row["sealed"])), _about(mint, row))
        return msgspec.json.decode(plain, type=HeldTokens)
    except (InvalidTag, ArxError, ValueError) as error:
        raise SettingsError(f"connection {row['name']}: its tokens do not open ({type(error).__name__})") from None


def _key(mint: MintContext, subject: str, own: SealedRoot | None = None) -> bytes:
    sealed = mint.db.connections.person_key(subject) if own is None else own
    if sealed is None:
        raise SettingsError("the person's key is gone")
    return mint.root_keys.unseal(sealed)


def _about(mint: MintContext, row: Mapping[str, Any]) -> bytes:
    """Return the associated data of a seal, which binds it to its row."""
    which = str(row["id"] if "id" in row else row["digest"])
    parts = ["arx/1/connection", mint.realm.name, which, str(row["name"]), str(row["subject"]), str(row["account"])]
    return "\0".join(parts).encode()
