# SPDX-License-Identifier: Apache-2.0
"""The key that signs the audit log, sealed like the root keys; its public half is in clear.  LOG 1.2."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta

from arx_caps.audit.merkle import LOG, NoteError, Signer, VerifierKey
from arx_caps.credentials.keyfile import read_secret, replace_secret
from arx_caps.mint.db.repositories.identity.keys import SealedRoot
from arx_caps.mint.keys.root_keys import RootKeys
from arx_verifier.errors import SettingsError

_NAME: Final = "log/"  # before the digest of the public key, which the seal binds; no root key's name has a slash


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's JSON."""

    v: Annotated[int, Meta(ge=1, le=1)]
    key: str
    nonce: str
    sealed: str


def make_log_key(path: Path, origin: str, roots: RootKeys) -> VerifierKey:
    """Make a log's key and write its file.

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
    _write(path, key, roots, private.private_bytes_raw())
    return key


def read_log_key(path: Path) -> VerifierKey:
    """Return a log's public key; nothing is opened.

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
        SettingsError: As ``read_log_key``, or the key was sealed with another passphrase or key file.
    """
    key, box = _read(path)
    return Signer(key.name, Ed25519PrivateKey.from_private_bytes(_unseal(path, key, box, roots)))


def reseal_log_key(path: Path, before: RootKeys, after: RootKeys | None = None) -> None:
    """Seal a log's key again; without ``after``, verify that it opens.

    Args:
        path: The key's file.
        before: Open it now.
        after: Open it from now on.

    Raises:
        SettingsError: It does not open, or cannot be written.
    """
    key, box = _read(path)
    private = _unseal(path, key, box, before)
    if after is not None:
        _write(path, key, after, private)


def _write(path: Path, key: VerifierKey, roots: RootKeys, private: bytes) -> None:
    box = roots.seal_secret(_sealed_name(key), private)
    content = {"v": 1, "key": str(key), "nonce": box.nonce, "sealed": box.sealed}
    replace_secret(path, json.dumps(content, indent=1).encode() + b"\n")


def _read(path: Path) -> tuple[VerifierKey, _File]:
    try:
        file = msgspec.json.decode(read_secret(path), type=_File)
        key = VerifierKey.parse(file.key)
    except (msgspec.DecodeError, UnicodeDecodeError, NoteError):
        # Not chained: the text of a parser could quote a private half that is in clear.
        raise SettingsError(f"{path} is not the sealed key of a log") from None
    if key.kind != LOG:
        raise SettingsError(f"{path} is the key of a witness, not of a log")
    return key, file


def _unseal(path: Path, key: VerifierKey, box: _File, roots: RootKeys) -> bytes:
    try:
        return roots.unseal(SealedRoot(_sealed_name(key), box.nonce, box.sealed))
    except SettingsError as error:
        hint = "put the keys/log.json and keys/root.json of one realm, or of one backup, together"
        raise SettingsError(f"{path} does not open with these root keys, or was changed", hint=hint) from error


def _sealed_name(key: VerifierKey) -> str:
    return _NAME + hashlib.sha256(str(key).encode()).hexdigest()
