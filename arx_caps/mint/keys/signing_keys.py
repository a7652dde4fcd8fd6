# SPDX-License-Identifier: Apache-2.0
"""The keys that sign access tokens: made, sealed, rotated, published.  CONTROL 5.1, RFC 7517."""

import json
import threading
import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import msgspec
from joserfc.jwk import ECKey, RSAKey

from arx_caps.credentials.access_token import LIFE_MS, Algorithm, VerifyingKey, read_verifying_key
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.identity.keys import SIGNING_NAME, SealedRoot
from arx_caps.mint.db.repositories.identity.signing_keys import SigningKeyRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.keys.root_keys import RootKeys
from arx_verifier.clock import now_ms
from arx_verifier.errors import SettingsError

PUBLISHED_MS: Final = 10 * 60_000  # before a key signs; twice as long as anyone may keep the published keys
MAX_AGE_S: Final = 5 * 60  # how long anyone may keep them
SIGNS_MS: Final = 30 * 24 * 3_600_000  # then the next key is made
OUTLIVED_MS: Final = LIFE_MS + 60_000  # after its successor began to sign: its last token has expired
RSA_BITS: Final = 3072
_LOOK_S: Final = 1.0  # how old the rows may be
_ROTATION: Final = "mint"  # the actor of a rotation by time


class SigningKeyView(NamedTuple):
    """A signing key and its state: ``published``, ``signing``, ``accepted`` or ``retired``."""

    row: SigningKeyRow
    state: str


class SigningKeys:
    """The signing keys of a realm; thread-safe.

    The first is made when the first access token is signed, and each is replaced after ``SIGNS_MS``.

    Args:
        roots: Their seal is also that of these keys.
        db: The mint's database.
    """

    def __init__(self, roots: RootKeys, db: MintDatabase) -> None:
        self._roots, self._db = roots, db
        self._lock = threading.Lock()
        self._rows: tuple[SigningKeyRow, ...] = ()
        self._read_at = -_LOOK_S
        self._opened: dict[str, VerifyingKey] = {}

    def signer(self) -> tuple[str, VerifyingKey]:
        """Return id and private key of the key that signs now; make the first one.

        Raises:
            SettingsError: It was sealed with another passphrase or key file.
            StoreError: The database did not answer.
        """
        row = self._signing(self._read())
        if row is None:
            self._db.signing_keys.add_if(self._first, _ROTATION)
            row = self._signing(self._read(fresh=True))
        if row is None or row.nonce is None or row.sealed is None:
            raise SettingsError("there is no key that signs access tokens")
        with self._lock:
            key = self._opened.get(row.kid)
        if key is None:
            secret = self._roots.unseal(SealedRoot(SIGNING_NAME + row.kid, row.nonce, row.sealed))
            key = read_verifying_key(json.loads(secret), _algorithm(row))
            with self._lock:
                self._opened = {row.kid: key}  # one: the keys before do not sign any more
        return row.kid, key

    def find(self, kid: str) -> VerifyingKey | None:
        """Return the public key of an id, or None."""
        rows = self._read()
        if all(row.kid != kid for row in rows):
            rows = self._read(fresh=True)  # another mint may have made it
        row = next((row for row in _accepted(rows, now_ms()) if row.kid == kid), None)
        return None if row is None else read_verifying_key(json.loads(row.jwk), _algorithm(row))

    def published(self) -> list[dict[str, Any]]:
        """Return the public keys as JWKs."""
        about = {"use": "sig", "key_ops": ["verify"]}
        return [
            {**json.loads(row.jwk), **about, "alg": row.algorithm, "kid": row.kid}
            for row in _accepted(self._read(), now_ms())
        ]

    def view(self) -> list[SigningKeyView]:
        """Return all keys with their state, in the order in which they sign."""
        rows, now = self._read(fresh=True), now_ms()
        signing, accepted = self._signing(rows), _accepted(rows, now)
        return [
            SigningKeyView(
                row,
                "signing"
                if row is signing
                else "retired"
                if row not in accepted
                else "published"
                if row.signs_from > now
                else "accepted",
            )
            for row in rows
        ]

    def rotate(self, unit: UnitOfWork, by: str, *, algorithm: Algorithm | None, at_once: bool) -> str:
        """Make the next key.

        Args:
            unit: The call's unit of work.
            by: The actor.
            algorithm: Its algorithm; None for that of the key before.
            at_once: Whether it signs now and the others are retired, as for a stolen key.

        Returns:
            Its id.
        """
        rows, now = self._read(fresh=True), now_ms()
        chosen = algorithm or (_algorithm(rows[-1]) if rows else "ES256")
        live = self._signing(rows)
        row = self._make(chosen, now, now if at_once or live is None else now + PUBLISHED_MS)
        self._db.signing_keys.replace(unit, row, by, at_once=at_once)
        self._read(fresh=True)
        return row.kid

    def tick(self) -> None:
        """Make the next key if it is due, and retire those that were outlived; call it about once a second.

        Raises:
            ArxError: The database did not answer.
        """
        rows, now = self._read(), now_ms()
        if self._next(rows) is not None:
            self._db.signing_keys.add_if(self._next, _ROTATION)
            self._read(fresh=True)
        accepted = _accepted(rows, now)
        for row in rows:
            if row.retired_at is None and row not in accepted:
                self._db.signing_keys.retire(row.kid, _ROTATION)
                self._read(fresh=True)

    def _read(self, *, fresh: bool = False) -> tuple[SigningKeyRow, ...]:
        with self._lock:
            if fresh or time.monotonic() - self._read_at >= _LOOK_S:
                self._rows, self._read_at = tuple(self._db.signing_keys.rows()), time.monotonic()
            return self._rows

    def _signing(self, rows: Sequence[SigningKeyRow]) -> SigningKeyRow | None:
        now = now_ms()
        return next((row for row in reversed(rows) if row.retired_at is None and row.signs_from <= now), None)

    def _first(self, rows: Sequence[SigningKeyRow]) -> SigningKeyRow | None:
        return None if self._signing(rows) is not None else self._make("ES256", now_ms(), now_ms())

    def _next(self, rows: Sequence[SigningKeyRow]) -> SigningKeyRow | None:
        """Return the row of the next key if the newest has signed for long."""
        live = [row for row in rows if row.retired_at is None]
        now = now_ms()
        due = bool(live) and live[-1].signs_from + SIGNS_MS <= now
        return self._make(_algorithm(live[-1]), now, now + PUBLISHED_MS) if due else None

    def _make(self, algorithm: Algorithm, now: int, signs_from: int) -> SigningKeyRow:
        key: Any
        if algorithm == "ES256":
            key = ECKey.generate_key("P-256", private=True, auto_kid=False)
        else:
            key = RSAKey.generate_key(RSA_BITS, private=True, auto_kid=False)
        kid, public = key.thumbprint(), key.as_dict(private=False)
        box = self._roots.seal_secret(SIGNING_NAME + kid, msgspec.json.encode(key.as_dict(private=True)))
        text = msgspec.json.encode(public, order="sorted").decode()
        return SigningKeyRow(kid, algorithm, text, now, signs_from, None, box.nonce, box.sealed)


def _accepted(rows: Sequence[SigningKeyRow], now: int) -> list[SigningKeyRow]:
    """Return the keys whose tokens may be alive, and those that will sign."""
    live = [row for row in rows if row.retired_at is None]
    return [row for row, after in zip_longest(live, live[1:]) if after is None or after.signs_from + OUTLIVED_MS > now]


def _algorithm(row: SigningKeyRow) -> Algorithm:
    return "RS256" if row.algorithm == "RS256" else "ES256"
