# SPDX-License-Identifier: Apache-2.0
"""Root keys: in memory, in their sealed file, and the keys derived from them. SPEC 9.

Which key mints, and which services exist, is in ``key_schedule``.
"""

# Every audience key is derived from a root key, so that a service has its own key and can derive no other one. The file
# is sealed with a passphrase (scrypt) or a key file; there is no unsealed form. Later root keys have the same seal and
# are in the database, where every mint of the realm finds them; a copy of the database alone opens nothing. A file
# that was resealed also holds the seals before, sealed with the new one, so that older rows open.

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta

from arx_caps.credentials.keyfile import read_secret, replace_secret, write_secret
from arx_caps.credentials.secret_source import find_secret, is_set
from arx_caps.mint.db.repositories.identity.keys import SealedRoot
from arx_caps.settings.realm import PASSPHRASE_VARIABLE, ROOT_KEY_VARIABLE
from arx_verifier import names
from arx_verifier.errors import MalformedTokenError, SettingsError
from arx_verifier.token import wire
from arx_verifier.token.keyring import KEY_BYTES

AUDIENCE_LABEL: Final = "arx/1/audience/"  # audience "/" n follows; audiences have no slash, so labels cannot collide
MINT_LABEL: Final = "arx/1/mint"
ENROLMENT_LABEL: Final = "arx/1/enrolment/"  # the name of an invitation follows
SEAL_LABEL: Final = "arx/1/seal"
BACKUP_LABEL: Final = "arx/1/backup"
SCRYPT_COST: Final = 2**16  # 64 MiB and about 0.25 s: once at a start, and for each guess
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
FIRST_ROOT: Final = "k1"
MAX_OLDER: Final = 8  # earlier seals in the file; backups from before them need their own file

Text = Annotated[str, Meta(max_length=256)]
CLOSED: Final = (InvalidTag, MalformedTokenError, ValueError)  # a box that is malformed or does not open


class _Box(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    nonce: Text
    sealed: Text


class _Sealed(_Box, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[a-z0-9]{1,16}$")]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file's JSON."""

    v: Annotated[int, Meta(ge=1, le=1)]
    realm: Text
    seal: Literal["scrypt", "file"]
    cost: Annotated[int, Meta(ge=2**14, le=2**20)]
    salt: Text
    keys: Annotated[tuple[_Sealed, ...], Meta(min_length=1)]
    older: Annotated[tuple[_Box, ...], Meta(max_length=MAX_OLDER)] = ()


class RootKeys:
    """The root keys of a realm, in memory.  ``repr`` shows their names.

    Attributes:
        realm: The realm's name.
    """

    __slots__ = ("_derived", "_roots", "_seals", "realm")

    def __init__(self, roots: Mapping[str, bytes], *, realm: str, seals: Sequence[bytes] = ()) -> None:
        """Hold root keys in memory.

        Args:
            roots: By name, 32 secret bytes.
            realm: The realm's name.
            seals: The key that seals further root keys, and then the seals before it.

        Raises:
            SettingsError: There is no root key, or one that is not 32 bytes.
        """
        if not roots or any(len(root) != KEY_BYTES or not names.is_root_name(name) for name, root in roots.items()):
            raise SettingsError("a realm needs at least one root key of 32 bytes")
        self.realm = realm
        self._roots, self._seals = dict(roots), tuple(seals)
        # By root key and label: as many as the database has keys of audiences.  Names that callers choose, such as
        # those of invitations, are not kept.
        self._derived: dict[tuple[str, str], bytes] = {}

    @classmethod
    def create(cls, path: Path, *, realm: str, passphrase: str | None, key_path: Path) -> Self:
        """Make the first root key and store it, sealed with a passphrase, ``ARX_ROOT_KEY`` or else a new key file.

        Raises:
            SettingsError: A file exists already, or cannot be written.
        """
        keys = cls({FIRST_ROOT: secrets.token_bytes(KEY_BYTES)}, realm=realm)
        if passphrase is None and not is_set(ROOT_KEY_VARIABLE):
            write_secret(key_path, wire.text_of(secrets.token_bytes(KEY_BYTES)).encode() + b"\n")
        return keys.save(path, passphrase=passphrase, key_path=key_path)

    def save(self, path: Path, *, passphrase: str | None, key_path: Path) -> Self:
        """Store the keys, sealed, in a new file, and return them as it opens them.

        Raises:
            SettingsError: The file exists already, the passphrase is empty, or the key file is missing.
        """
        content, whole = self.seal(passphrase=passphrase, key_path=key_path)
        write_secret(path, content)
        return whole

    def seal(self, *, passphrase: str | None, key_path: Path) -> tuple[bytes, Self]:
        """Return the content of a file with these keys, sealed with a passphrase or a key file.

        Args:
            passphrase: The passphrase; None to seal with the key file's first line.
            key_path: The key file.

        Returns:
            The file's content, and the keys as it opens them.

        Raises:
            SettingsError: The passphrase is empty, or the key file is missing.
        """
        salt = os.urandom(SALT_BYTES)
        key, *_ = _seal_keys(passphrase, key_path, salt, SCRYPT_COST)
        older = self._seals[:MAX_OLDER]
        content: dict[str, Any] = {
            "v": 1,
            "realm": self.realm,
            "seal": "file" if passphrase is None else "scrypt",
            "cost": SCRYPT_COST,
            "salt": wire.text_of(salt),
            "keys": [{"name": name} | box(key, root, _about(self.realm, name)) for name, root in self._roots.items()],
        }
        if older:
            content["older"] = [box(key, seal, _about_seal(self.realm)) for seal in older]
        whole = type(self)(self._roots, realm=self.realm, seals=(key, *older))
        return json.dumps(content, indent=1).encode() + b"\n", whole

    @classmethod
    def load(cls, path: Path, *, realm: str, passphrase: str | None, key_path: Path, is_named: bool = False) -> Self:
        """Open the stored keys.

        Args:
            path: The sealed file.
            realm: The realm that the file must belong to.
            passphrase: Opens a file that a passphrase seals.
            key_path: Opens a file that a key file seals, unless ``ARX_ROOT_KEY`` has the key.
            is_named: Whether an operator named the key file, which then wins over ``ARX_ROOT_KEY``.

        Raises:
            SettingsError: A file is missing, readable by others or damaged, or does not open.
        """
        try:
            file = msgspec.json.decode(read_secret(path), type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is not a root key file") from error
        if file.realm != realm:
            raise SettingsError(f"{path} belongs to another realm")
        if file.seal == "scrypt" and passphrase is None:
            raise SettingsError(
                f"{path} is sealed with a passphrase: give --passphrase-file FILE, or set {PASSPHRASE_VARIABLE}"
            )
        # The file decides: after a reseal to a key file, the passphrase may still be set in the environment.
        sealed_with = passphrase if file.seal == "scrypt" else None
        failed: Exception | None = None
        # While keys are resealed, the key file has an old and a new line, and one of them opens the file.
        for key in _seal_keys(sealed_with, key_path, _salt_of(path, file), file.cost, is_named=is_named):
            try:
                roots = {each.name: unbox(key, each, _about(realm, each.name)) for each in file.keys}
                older = [unbox(key, each, _about_seal(realm)) for each in file.older]
                return cls(roots, realm=realm, seals=(key, *older))
            except CLOSED as error:
                failed = error
        raise SettingsError(f"{path} does not open with this passphrase or key file") from failed

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the root keys, the oldest first."""
        return tuple(self._roots)

    def make(self, name: str) -> SealedRoot:
        """Return a new root key for the database, sealed; ``open`` it to derive keys from it.

        Raises:
            SettingsError: These keys have no seal.
        """
        return self.seal_secret(name, secrets.token_bytes(KEY_BYTES))

    def open(self, sealed: SealedRoot) -> None:
        """Open a root key of the database and keep it in memory.

        Raises:
            SettingsError: It was sealed with another passphrase or key file.
        """
        self._roots[sealed.name] = self.unseal(sealed)
        self._derived.clear()

    def reseal(self, sealed: SealedRoot) -> SealedRoot:
        """Return a root key of the database with the newest seal.

        Raises:
            SettingsError: It was sealed with another passphrase or key file.
        """
        return self.seal_secret(sealed.name, self.unseal(sealed))

    def seal_secret(self, name: str, secret: bytes) -> SealedRoot:
        """Return a secret for the database, sealed.

        Args:
            name: What it is bound to: the name of a root key, or of another secret, which has a slash.
            secret: The secret.

        Raises:
            SettingsError: These keys have no seal.
        """
        return SealedRoot(name, **box(self._sealing()[0], secret, _about(self.realm, name)))

    def unseal(self, sealed: SealedRoot) -> bytes:
        """Return the secret that ``seal_secret`` has sealed.

        Raises:
            SettingsError: It was sealed with another passphrase or key file.
        """
        failed: Exception | None = None
        # Rows may be older than the file: the newest seal first, then those before it.
        for seal in self._sealing():
            try:
                return unbox(seal, sealed, _about(self.realm, sealed.name))
            except CLOSED as error:
                failed = error
        what = sealed.name if "/" in sealed.name else f"root key {sealed.name}"
        raise SettingsError(
            f"{what} of the database does not open: every mint of a realm has the same "
            "keys/root.json and the same passphrase or key file"
        ) from failed

    def audience_key(self, root: str, audience: str, n: int) -> tuple[str, bytes]:
        """Return key id and key of an audience's key number under a root key."""
        return f"{root}.{n}", self._derive_once(root, f"{AUDIENCE_LABEL}{audience}/{n}")

    def mint_key(self, root: str) -> tuple[str, bytes]:
        """Return key id and key of the mint's own tokens under a root key."""
        # A label of its own: no service can derive this key, so no service can make a token that the mint accepts.
        return f"{root}.0", self._derive_once(root, MINT_LABEL)

    def enrolment(self, root: str, invitation: str) -> bytes:
        """Return the 32 secret bytes of an enrolment token, from an invitation's random name."""
        # Derived and not stored: a retry must get the same token, and no table may hold one.
        return self._derive(root, ENROLMENT_LABEL + invitation)

    def backup_key(self) -> bytes:
        """Return the key that authenticates backups, of the seal.

        Raises:
            SettingsError: These keys have no seal.
        """
        # Not of a root key: a thief of one could make backups for ever, also after it was retired.
        return _expand(self._sealing()[0], None, BACKUP_LABEL)

    def _sealing(self) -> tuple[bytes, ...]:
        if not self._seals:
            raise SettingsError("these root keys were not opened from a file: they have no seal for another one")
        return self._seals

    def _derive_once(self, root: str, label: str) -> bytes:
        key = self._derived.get((root, label))
        if key is None:
            key = self._derived[root, label] = self._derive(root, label)
        return key

    def _derive(self, root: str, label: str) -> bytes:
        return _expand(self._roots[root], None, label)

    def __repr__(self) -> str:
        return f"<RootKeys of {self.realm}: {', '.join(self._roots)}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("RootKeys are secrets and are not pickled")


def _expand(secret: bytes, salt: bytes | None, label: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=label.encode()).derive(secret)


def _about(realm: str, name: str) -> bytes:
    """Return the associated data of a sealed key, which binds it to its realm and name."""
    return f"arx/1/root/{realm}/{name}".encode()


def _about_seal(realm: str) -> bytes:
    """Return the associated data of a seal before; no root key has an empty name."""
    return _about(realm, "")


def box(key: bytes, secret: bytes, about: bytes) -> dict[str, str]:
    """Return a secret, sealed, as ``nonce`` and ``sealed``.

    Args:
        key: The key that seals, 32 bytes.
        secret: The secret.
        about: What the seal is bound to.
    """
    # Random: one key seals a few dozen secrets and one for each person, far from the bound of AES-GCM, 2^32.
    nonce = os.urandom(NONCE_BYTES)
    return {"nonce": wire.text_of(nonce), "sealed": wire.text_of(AESGCM(key).encrypt(nonce, secret, about))}


def unbox(key: bytes, sealed: _Box | SealedRoot, about: bytes) -> bytes:
    """Return the secret that ``box`` has sealed; raises one of ``CLOSED`` if it does not open."""
    return AESGCM(key).decrypt(wire.bytes_of(sealed.nonce), wire.bytes_of(sealed.sealed), about)


def _salt_of(path: Path, file: _File) -> bytes:
    try:
        return wire.bytes_of(file.salt)
    except MalformedTokenError as error:
        raise SettingsError(f"{path} is not a root key file") from error


def _seal_keys(
    passphrase: str | None, key_path: Path, salt: bytes, cost: int, *, is_named: bool = False
) -> list[bytes]:
    """Return the keys that a passphrase, or each line of a key file, derives; the newest first."""
    if passphrase is not None:
        if not passphrase:
            raise SettingsError("empty passphrase: give one, or use a key file")
        return [Scrypt(salt=salt, length=KEY_BYTES, n=cost, r=8, p=1).derive(passphrase.encode())]
    lines = read_key_file(key_path) if is_named else _key_lines(key_path)
    return [_expand(secret, salt, SEAL_LABEL) for secret in lines]


def _key_lines(path: Path) -> list[bytes]:
    """Return the secrets that seal, from ``ARX_ROOT_KEY``, ``ARX_ROOT_KEY_FILE`` or the key file."""
    given = find_secret(ROOT_KEY_VARIABLE)
    if given is None:
        return read_key_file(path)
    return _secrets_of(given, ROOT_KEY_VARIABLE)


def read_key_file(path: Path) -> list[bytes]:
    """Return the secrets of a key file, 32 bytes in each line.

    Raises:
        SettingsError: It is missing, readable by others, or no key file.
    """
    return _secrets_of(read_secret(path).decode("ascii", "replace"), str(path))


def _secrets_of(text: str, place: str) -> list[bytes]:
    try:
        lines = [wire.bytes_of(line) for line in text.split()]
    except MalformedTokenError:  # not chained: its text may quote the secret
        raise SettingsError(f"{place} is not a key file of 32 bytes") from None
    # A shorter secret would open nothing today, and seal weakly at the next reseal.
    if not lines or any(len(secret) != KEY_BYTES for secret in lines):
        raise SettingsError(f"{place} is not a key file of 32 bytes")
    return lines


def write_key_file(path: Path, lines: Sequence[bytes]) -> None:
    """Write a key file, and replace an existing one atomically.

    Raises:
        SettingsError: It cannot be written.
    """
    replace_secret(path, b"".join(wire.text_of(secret).encode() + b"\n" for secret in lines))
