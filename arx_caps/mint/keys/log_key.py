# SPDX-License-Identifier: Apache-2.0
"""The key that signs the audit log: sealed like the root keys; its public half and those before it are in clear.

LOG 1.2, 1.12.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta

from arx_caps.audit.merkle.errors import NoteError
from arx_caps.audit.merkle.log_keys import Era, LogKeys
from arx_caps.audit.merkle.note import LOG, Signer, VerifierKey
from arx_caps.credentials.keyfile import read_secret, replace_secret
from arx_caps.mint.db.repositories.identity.keys import SealedRoot
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.settings.realm import Realm
from arx_verifier.errors import SettingsError

if TYPE_CHECKING:
    from arx_caps.mint.audit.log import AuditLog

_NAME: Final = "log/"  # before the digest of what is in clear, which the seal binds; no root key's name has a slash


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key, with the members of ``Era``."""

    key: str
    last: Annotated[int, Meta(ge=0)] | None = None
    change: str | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's JSON."""

    v: Annotated[int, Meta(ge=1, le=1)]
    keys: Annotated[tuple[_Key, ...], Meta(min_length=1)]
    nonce: str
    sealed: str


def make_log_key(path: Path, origin: str, roots: RootKeys) -> VerifierKey:
    """Make a log's first key and write its file.

    Args:
        path: The file to write; an existing one is replaced.
        origin: The log's name.
        roots: Opened from their file; their seal seals the key.

    Raises:
        NoteError: The name is invalid.
        SettingsError: The file cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    key = Signer(origin, private).key  # before the file: a name that no signature line can hold would be useless
    _write(path, LogKeys.of(key), roots, private.private_bytes_raw())
    return key


def make_next_key(path: Path, keys: LogKeys, roots: RootKeys) -> VerifierKey:
    """Make a log's next key beside its file, or return that of an interrupted run.

    Args:
        path: The file of the next key, until ``replace_log_key`` takes it.
        keys: The log's keys.
        roots: As for ``make_log_key``.

    Raises:
        SettingsError: The file cannot be written, or is one of other root keys.
    """
    if not path.exists():
        return make_log_key(path, keys.key.name, roots)
    return open_log_key(path, roots).key


def replace_log_key(path: Path, beside: Path, keys: LogKeys, roots: RootKeys) -> None:
    """Replace a log's key by the next one; the private half of the one before is gone.

    Args:
        path: The key's file.
        beside: The file that ``make_next_key`` wrote, which is removed.
        keys: All keys, the next one last.
        roots: As for ``make_log_key``.

    Raises:
        SettingsError: A file does not open, or cannot be written.
    """
    _write(path, keys, roots, _unseal(beside, *_read(beside), roots))
    beside.unlink()


def read_log_key(path: Path) -> VerifierKey:
    """Return a log's public key; nothing is opened.  Raises as ``read_log_keys``."""
    return read_log_keys(path).key


def read_log_keys(path: Path) -> LogKeys:
    """Return a log's public keys; nothing is opened.

    Raises:
        SettingsError: The file is missing, other users can read it, or it is no sealed key of a log.
    """
    return _read(path)[0]


def open_log_key(path: Path, roots: RootKeys) -> Signer:
    """Open a log's key.

    Args:
        path: The key's file.
        roots: Opened from their file.

    Raises:
        SettingsError: As ``read_log_keys``, or the key was sealed with another passphrase or key file.
    """
    keys, box = _read(path)
    return Signer(keys.key.name, Ed25519PrivateKey.from_private_bytes(_unseal(path, keys, box, roots)))


def open_log(realm: Realm, roots: RootKeys) -> "AuditLog":
    """Return a realm's audit log, which can sign; as ``AuditLog``.

    Args:
        realm: The realm.
        roots: Opened from their file.

    Raises:
        SettingsError: As ``open_log_key``, or the URL names no database.
    """
    path = realm.log_key_path
    from arx_caps.mint.audit.log import AuditLog  # takes modules of POSIX, which a reader of the key does not

    return AuditLog(realm, open_log_key(path, roots), read_log_keys(path))


def reseal_log_key(path: Path, before: RootKeys, after: RootKeys | None = None) -> None:
    """Seal a log's key again; without ``after``, verify that it opens.

    Args:
        path: The key's file.
        before: Open it now.
        after: Open it from now on.

    Raises:
        SettingsError: It does not open, or cannot be written.
    """
    keys, box = _read(path)
    private = _unseal(path, keys, box, before)
    if after is not None:
        _write(path, keys, after, private)


def _write(path: Path, keys: LogKeys, roots: RootKeys, private: bytes) -> None:
    box = roots.seal_secret(_sealed_name(keys), private)
    content = {"v": 1, "keys": _in_clear(keys), "nonce": box.nonce, "sealed": box.sealed}
    replace_secret(path, json.dumps(content, indent=1).encode() + b"\n")


def _read(path: Path) -> tuple[LogKeys, _File]:
    try:
        file = msgspec.json.decode(read_secret(path), type=_File)
        keys = LogKeys(tuple(Era(VerifierKey.parse(each.key), each.last, each.change) for each in file.keys))
    except (msgspec.DecodeError, UnicodeDecodeError, NoteError):
        # Not chained: the text of a parser could quote a private half that is in clear.
        raise SettingsError(f"{path} is not the sealed key of a log") from None
    if any((era.key.name, era.key.kind) != (keys.key.name, LOG) for era in keys.eras):
        raise SettingsError(f"{path} is not the key of one log")
    return keys, file


def _unseal(path: Path, keys: LogKeys, box: _File, roots: RootKeys) -> bytes:
    try:
        return roots.unseal(SealedRoot(_sealed_name(keys), box.nonce, box.sealed))
    except SettingsError as error:
        hint = "put the keys/log.json and keys/root.json of one realm, or of one backup, together"
        raise SettingsError(f"{path} does not open with these root keys, or was changed", hint=hint) from error


def _sealed_name(keys: LogKeys) -> str:
    """Return the name that the seal binds: no key and no change in clear can be replaced."""
    text = json.dumps(_in_clear(keys), sort_keys=True, separators=(",", ":"))
    return _NAME + hashlib.sha256(text.encode()).hexdigest()


def _in_clear(keys: LogKeys) -> Any:
    return msgspec.to_builtins([_Key(str(era.key), era.last, era.change) for era in keys.eras])
