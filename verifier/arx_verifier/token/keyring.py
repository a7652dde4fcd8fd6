# SPDX-License-Identifier: Apache-2.0
"""Audience keys by key id.  SPEC 9.

A verifier has the keys of its own audience and no other.  HMAC is symmetric: every verifier can also mint, so a stolen
audience key forges tokens for that one service and for no other.  ``service`` reads the keys from a file.
"""

from collections.abc import Mapping
from typing import Final

import arx_verifier.names as names
import arx_verifier.token.chain as chain
import arx_verifier.token.holder as holder
from arx_verifier.errors import SettingsError

KEY_BYTES: Final = 32
MAX_AGREED: Final = 4096  # holders by key, about 250 bytes each: any agent can make keys and delegate to them
DEFAULT_MAX_TTL_MS: Final = 24 * 60 * 60 * 1000  # kills are remembered this long; a token may not outlive its kill


class PreparedKey:
    """One key, passed through the key generator once.

    Attributes:
        kid: Its id.
        target: The target whose kill ends every token that was minted with it.
        derived: The key, a secret.
        gone: Whether its ring dropped or replaced it; a chain that it authenticated must then be verified again.
    """

    __slots__ = ("_agreed", "_key", "_public", "derived", "gone", "kid", "target")

    def __init__(self, kid: str, key: bytes) -> None:
        self.kid, self.gone = kid, False
        self.target = f"key:{kid}"
        self.derived = chain.derive(key)
        self._key, self._public = key, ""
        self._agreed: dict[str, bytes] = {}

    @property
    def public(self) -> str:
        """The X25519 public key that is derived from it: ``aud_key`` of the bound tokens that it signs.  SPEC 16.4."""
        if not self._public:
            self._public = holder.audience_public(self._key)
        return self._public

    def caveat_key(self, name: str) -> bytes:
        """Return the key of a third-party caveat of the mint, passed through the key generator.  SPEC 6.5.

        Args:
            name: The third-party caveat's ``id``.
        """
        from arx_verifier.token.discharge import caveat_key  # imported on use: few services demand approvals themselves

        return chain.derive(caveat_key(self._key, name))

    def agree(self, public: str) -> bytes | None:
        """Return the shared secret of this audience and a holder; see ``holder.agree``.

        Args:
            public: The holder's Ed25519 public key, 43 characters.
        """
        common = self._agreed.get(public)
        if common is None:
            common = holder.agree(holder.audience_secret(self._key), public)
            if common is not None:
                # A Diffie-Hellman takes as long as fifty calls, and a holder's key signs many chains.
                if len(self._agreed) >= MAX_AGREED:
                    self._agreed.pop(next(iter(self._agreed)), None)
                self._agreed[public] = common
        return common

    def __repr__(self) -> str:
        return f"<PreparedKey {self.kid}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a PreparedKey is a secret and is not pickled")


class KeyRing:
    """The keys that a verifier accepts, for one realm and audience.

    Attributes:
        realm: The realm's name, which is the location of every token.
        location: The same in bytes.
        max_ttl_ms: The longest ``exp - iat`` that is accepted, in ms.
    """

    __slots__ = ("_keys", "location", "max_ttl_ms", "realm")

    def __init__(self, keys: Mapping[str, bytes], *, realm: str, max_ttl_ms: int = DEFAULT_MAX_TTL_MS) -> None:
        """Check and derive the keys.

        Args:
            keys: Key id to 32 secret bytes.
            realm: The realm's name.
            max_ttl_ms: The realm's longest token life in ms.

        Raises:
            SettingsError: No key, a key of another length, an invalid key id, or an invalid realm.
        """
        if not names.is_realm(realm):
            raise SettingsError(f"{realm!r:.60} cannot name a realm: lower-case letters, digits, '.', '_' and '-'")
        self.realm = realm
        self.location = realm.encode("ascii")
        self.max_ttl_ms = max_ttl_ms
        self._keys = self._derive(keys)

    @staticmethod
    def _derive(keys: Mapping[str, bytes]) -> dict[str, PreparedKey]:
        # An empty ring would refuse every token as unknown, which looks like an attack and not like a mistake.
        if not keys:
            raise SettingsError("a key ring needs at least one audience key; ask the mint for this service's keys")
        for kid, key in keys.items():
            if not names.is_kid(kid):
                raise SettingsError(f"{kid!r:.60} cannot name an audience key; one is called k1.0")
            if len(key) != KEY_BYTES:
                raise SettingsError(f"audience key {kid} has {len(key)} bytes; it must have {KEY_BYTES}")
        return {kid: PreparedKey(kid, key) for kid, key in keys.items()}

    def get(self, kid: str) -> PreparedKey | None:
        """Return the key of ``kid``, or None."""
        return self._keys.get(kid)

    def replace(self, keys: Mapping[str, bytes]) -> None:
        """Replace all keys; a cached chain of a dropped or changed key is verified again.

        Args:
            keys: Key id to 32 secret bytes.

        Raises:
            SettingsError: As for the constructor; the old keys stay in force.
        """
        # Before anything changes: with one invalid key the old ones stay in force, and no service is left without any.
        fresh = self._derive(keys)
        for kid, key in fresh.items():
            known = self._keys.get(kid)
            if known is not None and chain.equal(known.derived, key.derived):
                fresh[kid] = known  # the same object, so that its cached chains stay valid
        before, self._keys = self._keys, fresh  # one assignment: a reader sees the old set or the new, never a mixture
        # After the exchange: a request that reads the ring now finds the new key, and a cached chain of the old one is
        # stale.
        for kid, key in before.items():
            if fresh.get(kid) is not key:
                key.gone = True

    @property
    def kids(self) -> tuple[str, ...]:
        """The key ids, sorted."""
        return tuple(sorted(self._keys))

    def __repr__(self) -> str:
        return f"<KeyRing of {self.realm}: {', '.join(self.kids)}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a KeyRing is a secret and is not pickled")
