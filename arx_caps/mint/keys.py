# SPDX-License-Identifier: Apache-2.0
"""Root keys: made here, stored encrypted, and never anywhere else.  SPEC 9.

Every audience key is derived from a root key, so a tool service can be given its own and learns nothing of the others'.
The file is sealed with a passphrase (scrypt) or a key file; without either nothing starts.  Later root keys are sealed
in the same way and kept in the mint's database, where every mint of the realm finds them.  Which of them mints, and
which services exist, is for ``keybook``.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta

from arx_caps.keyfile import read_secret, write_secret
from arx_verifier import codec, names
from arx_verifier.errors import MalformedTokenError, SettingsError
from arx_verifier.keys import KEY_BYTES

AUDIENCE_LABEL: Final = "arx/1/audience/"  # then audience "/" n; no audience has a slash, so labels cannot collide
MINT_LABEL: Final = "arx/1/mint"
ENROLMENT_LABEL: Final = "arx/1/enrolment/"  # then the name of an invitation
SEAL_LABEL: Final = "arx/1/seal"
SCRYPT_COST: Final = 2**16  # 64 MiB and about a quarter of a second, once a start: dear for a guesser
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
FIRST_ROOT: Final = "k1"

Text = Annotated[str, Meta(max_length=256)]


class SealedRoot(NamedTuple):
    """A root key that was made later, as the database keeps it."""

    name: str
    nonce: str
    sealed: str


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[a-z0-9]{1,16}$")]
    nonce: Text
    sealed: Text


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The stored form."""

    v: Annotated[int, Meta(ge=1, le=1)]
    realm: Text
    seal: Literal["scrypt", "file"]
    cost: Annotated[int, Meta(ge=2**14, le=2**20)]
    salt: Text
    keys: Annotated[tuple[_Sealed, ...], Meta(min_length=1)]


class RootKeys:
    """The root keys of a realm, in memory.  ``repr`` shows their names.

    Attributes:
        realm: The realm's name.
    """

    __slots__ = ("_roots", "_seal", "realm")

    def __init__(self, roots: Mapping[str, bytes], *, realm: str, seal: bytes | None = None) -> None:
        """Hold root keys.

        Args:
            roots: 32 secret bytes by name.
            realm: The realm's name.
            seal: What further ones are sealed with.

        Raises:
            SettingsError: There is none, or one that is not 32 bytes.
        """
        if not roots or any(len(root) != KEY_BYTES or not names.is_root_name(name) for name, root in roots.items()):
            raise SettingsError("a realm needs at least one root key of 32 bytes")
        self.realm = realm
        self._roots, self._seal = dict(roots), seal

    @classmethod
    def create(cls, path: Path, *, realm: str, passphrase: str | None, key_path: Path) -> Self:
        """Make the first root key and store it, sealed with a passphrase or else with a fresh key file.

        Raises:
            SettingsError: A file exists already, or cannot be written.
        """
        keys = cls({FIRST_ROOT: secrets.token_bytes(KEY_BYTES)}, realm=realm)
        if passphrase is None:
            write_secret(key_path, codec.text_of(secrets.token_bytes(KEY_BYTES)).encode() + b"\n")
        keys.save(path, passphrase=passphrase, key_path=key_path)
        return keys

    def save(self, path: Path, *, passphrase: str | None, key_path: Path) -> None:
        """Store the keys, sealed, in a new file.

        Raises:
            SettingsError: The file exists already, the passphrase is empty, or there is no key file.
        """
        salt = os.urandom(SALT_BYTES)
        key = _seal_key(passphrase, key_path, salt, SCRYPT_COST)
        sealed = []
        for name, root in self._roots.items():
            nonce = os.urandom(NONCE_BYTES)
            box = AESGCM(key).encrypt(nonce, root, _about(self.realm, name))
            sealed.append({"name": name, "nonce": codec.text_of(nonce), "sealed": codec.text_of(box)})
        content = {
            "v": 1,
            "realm": self.realm,
            "seal": "file" if passphrase is None else "scrypt",
            "cost": SCRYPT_COST,
            "salt": codec.text_of(salt),
            "keys": sealed,
        }
        write_secret(path, json.dumps(content, indent=1).encode() + b"\n")

    @classmethod
    def load(cls, path: Path, *, realm: str, passphrase: str | None, key_path: Path) -> Self:
        """Open the stored keys.

        Raises:
            SettingsError: A file is missing, open to others or damaged, or the passphrase or key file is not the one.
        """
        try:
            file = msgspec.json.decode(read_secret(path), type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} holds no root keys") from error
        if file.realm != realm:
            raise SettingsError(f"{path} belongs to another realm")
        if file.seal == "scrypt" and passphrase is None:
            raise SettingsError(f"{path} is sealed with a passphrase: set ARX_ROOT_PASSPHRASE")
        sealed_with = passphrase if file.seal == "scrypt" else None
        try:
            key = _seal_key(sealed_with, key_path, codec.bytes_of(file.salt), file.cost)
            roots = {
                each.name: AESGCM(key).decrypt(
                    codec.bytes_of(each.nonce), codec.bytes_of(each.sealed), _about(realm, each.name)
                )
                for each in file.keys
            }
        except (InvalidTag, MalformedTokenError, ValueError) as error:
            raise SettingsError(f"{path} does not open with this passphrase or key file") from error
        return cls(roots, realm=realm, seal=key)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the root keys, in their order."""
        return tuple(self._roots)

    def make(self, name: str) -> SealedRoot:
        """Make another root key for the database; it is not held before it is opened.

        Raises:
            SettingsError: There is nothing to seal it with.
        """
        nonce = os.urandom(NONCE_BYTES)
        box = AESGCM(self._sealing()).encrypt(nonce, secrets.token_bytes(KEY_BYTES), _about(self.realm, name))
        return SealedRoot(name, codec.text_of(nonce), codec.text_of(box))

    def open(self, sealed: SealedRoot) -> None:
        """Hold a root key of the database, from now on.

        Raises:
            SettingsError: It was sealed with another passphrase or key file.
        """
        about = _about(self.realm, sealed.name)
        try:
            root = AESGCM(self._sealing()).decrypt(codec.bytes_of(sealed.nonce), codec.bytes_of(sealed.sealed), about)
        except (InvalidTag, MalformedTokenError, ValueError) as error:
            raise SettingsError(
                f"root key {sealed.name} of the database does not open: every mint of a realm has the same "
                "keys/root.json and the same passphrase or key file"
            ) from error
        self._roots[sealed.name] = root

    def audience_key(self, root: str, audience: str, n: int) -> tuple[str, bytes]:
        """Return key id and key of an audience, under a root key and with the audience's number."""
        return f"{root}.{n}", self._derive(root, f"{AUDIENCE_LABEL}{audience}/{n}")

    def mint_key(self, root: str) -> tuple[str, bytes]:
        """Return key id and key of the mint's own tokens under a root key; it mints nothing for a tool service."""
        return f"{root}.0", self._derive(root, MINT_LABEL)

    def enrolment(self, root: str, invitation: str) -> bytes:
        """Return the 32 secret bytes of an enrolment token, from an invitation's random name."""
        return self._derive(root, ENROLMENT_LABEL + invitation)

    def _sealing(self) -> bytes:
        if self._seal is None:
            raise SettingsError("these root keys were not opened from a file, so no other one can be sealed")
        return self._seal

    def _derive(self, root: str, label: str) -> bytes:
        return _expand(self._roots[root], None, label)

    def __repr__(self) -> str:
        return f"<RootKeys of {self.realm}: {', '.join(self._roots)}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("RootKeys are secrets and are not pickled")


def _expand(secret: bytes, salt: bytes | None, label: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=label.encode()).derive(secret)


def _about(realm: str, name: str) -> bytes:
    """What a sealed key is bound to: it cannot be moved to another realm or name."""
    return f"arx/1/root/{realm}/{name}".encode()


def _seal_key(passphrase: str | None, key_path: Path, salt: bytes, cost: int) -> bytes:
    if passphrase is not None:
        if not passphrase:
            raise SettingsError("an empty passphrase protects nothing")
        return Scrypt(salt=salt, length=KEY_BYTES, n=cost, r=8, p=1).derive(passphrase.encode())
    secret = codec.bytes_of(read_secret(key_path).decode("ascii", "replace").strip())
    if len(secret) != KEY_BYTES:
        raise SettingsError(f"{key_path} is not a key file of 32 bytes")
    return _expand(secret, salt, SEAL_LABEL)
