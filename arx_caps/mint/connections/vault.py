# SPDX-License-Identifier: Apache-2.0
"""Seal the tokens of people's accounts, each person's with a key of the person.  CONTROL 9.1."""

import secrets
import time
from typing import Final

import msgspec

from arx_caps.credentials.secret_source import SecretStruct
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.keys import PERSON_NAME, SealedRoot
from arx_caps.mint.db.repositories.oauth.connections import AccountRow, Sealer
from arx_caps.mint.db.tables import StoredKey
from arx_caps.mint.keys.root_keys import CLOSED, box, unbox
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, SettingsError

WAIT_S: Final = 35.0  # of a rotation for a refresh; the lock of one that died ends before
LOOK_S: Final = 0.1  # between two looks meanwhile


class SealError(SettingsError):
    """Nothing opens the tokens of a connection; the person can connect the account again."""


class HeldAccess(SecretStruct, frozen=True, array_like=True):
    """An access token, a secret; when it expires, ms since the Unix epoch; and its scopes, as the issuer names them.

    ``identity`` is the ID token that came with it, a secret; empty for none.
    """

    token: str
    until: int
    scopes: tuple[str, ...]
    identity: str = ""


class HeldTokens(SecretStruct, frozen=True, kw_only=True):
    """The tokens of one account, all secrets.

    Attributes:
        refresh: The refresh token; None if the issuer gives none.
        access: By the scopes that were asked for, sorted, with a space between.
        account: The account, as the issuer has it.
        shown: Its name for people.
    """

    refresh: str | None = None
    access: dict[str, HeldAccess] = msgspec.field(default_factory=dict)
    account: str = ""
    shown: str = ""


class PersonKey(SecretStruct, frozen=True):
    """A person's key, a secret, and when it was made (ms since the Unix epoch), by which a rotation is known."""

    made_at: int
    secret: bytes


class TokenSeal:
    """Seals a person's tokens in the transaction that stores them: the key may have been rotated before it.

    Args:
        mint: The mint.
        row: Of a connection or its link: the seal opens for its ``id`` or ``digest``, and its ``name``, issuer,
            ``subject`` and ``account`` alone.
        tokens: The tokens.
        key: The person's key, as it was opened before.
    """

    def __init__(self, mint: MintContext, row: AccountRow, tokens: HeldTokens, key: PersonKey | None = None):
        self._mint, self._row, self._tokens, self.key = mint, row, tokens, key

    def __call__(self, stored: StoredKey | None) -> dict[str, str]:
        """Return the columns ``nonce`` and ``sealed``.

        Args:
            stored: The person's key in the database, which does not change until the transaction ends.

        Raises:
            SettingsError: The person was erased meanwhile.
        """
        # A key that was opened before is not opened again: `arx key reseal` may have sealed it for the next start.
        if self.key is None or stored is None or stored.created_at != self.key.made_at:
            self.key = open_key(self._mint, stored)
        return box(self.key.secret, msgspec.json.encode(self._tokens), _about(self._mint, self._row))


def open_key(mint: MintContext, stored: StoredKey | None) -> PersonKey:
    """Return a person's key.

    Raises:
        SealError: It is gone.
        SettingsError: This mint was not restarted since `arx key reseal`.
    """
    if stored is None:
        raise SealError("the person's key is gone")
    root = SealedRoot(PERSON_NAME + stored.subject, stored.nonce, stored.sealed)
    return PersonKey(stored.created_at, mint.root_keys.unseal(root))


def open_tokens(mint: MintContext, row: AccountRow, key: PersonKey | None = None) -> HeldTokens:
    """Return the tokens that a ``TokenSeal`` has sealed.

    Args:
        mint: The mint.
        row: The row with the seal.
        key: The person's key; None for that of the database.

    Raises:
        SealError: It does not open: the key is gone, or the row is another person's or account's.
        SettingsError: This mint cannot open the key.
    """
    key = key or open_key(mint, mint.db.connections.person_key(row.subject))
    try:
        plain = unbox(key.secret, SealedRoot("", row.nonce or "", row.sealed or ""), _about(mint, row))
        return msgspec.json.decode(plain, type=HeldTokens)
    except CLOSED as error:
        raise SealError(f"connection {row.name}: its tokens do not open ({type(error).__name__})") from None


def rotate_key(mint: MintContext, subject: str, by: str) -> bool:
    """Replace a person's key, and seal the person's tokens with the new one; return False if there is none.

    Raises:
        SettingsError: The key or a seal does not open; nothing was changed.
        GrantError: ``conflict``: the person's tokens are refreshed all the time; nothing was changed.
    """
    until_s = time.monotonic() + WAIT_S

    def again(stored: StoredKey) -> tuple[StoredKey, Sealer]:
        before = open_key(mint, stored)
        key, sealed = new_key(mint, subject, max(now_ms(), before.made_at + 1))
        return sealed, lambda row: TokenSeal(mint, row, open_tokens(mint, row, before), key)(sealed)

    what = Event.of("connection.key_rotated", by, subject=subject)
    # A mint that was not restarted since `arx key reseal` could not seal what its refresh gives with the new key.
    while (is_rotated := mint.db.connections.rotate_key(subject, again, what)) is None:
        if time.monotonic() > until_s:
            raise GrantError("a person's tokens are refreshed all the time: repeat the command", code="conflict")
        time.sleep(LOOK_S)
    return is_rotated


def new_key(mint: MintContext, subject: str, made_at: int) -> tuple[PersonKey, StoredKey]:
    """Return a new key of a person, as it is and for the database."""
    key = PersonKey(made_at, secrets.token_bytes(32))
    _, nonce, sealed = mint.root_keys.seal_secret(PERSON_NAME + subject, key.secret)
    return key, StoredKey(subject, made_at, nonce, sealed)


def _about(mint: MintContext, row: AccountRow) -> bytes:
    """Return the associated data of a seal, which binds it to its row."""
    parts = ("arx/1/connection", mint.realm.name, row.key, row.name, row.issuer, row.subject, row.account)
    return "\0".join(map(str, parts)).encode()
