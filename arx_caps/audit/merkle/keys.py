# SPDX-License-Identifier: Apache-2.0
"""Make and read key files of logs and witnesses.  LOG 1.2.

They have the form of other key files (``keyfile``).  The key's public text is ``note.VerifierKey``.
"""

from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from arx_caps.audit.merkle.note import LOG, WITNESS, Signer, VerifierKey, check_name
from arx_caps.credentials.keyfile import KeyFile
from arx_verifier.errors import SettingsError
from arx_verifier.token import wire

# A log's key is its identity for as long as the log lives, so it is separate from keys that rotate.
Kind = Literal["log", "witness"]
_KINDS: Final[dict[Kind, int]] = {"log": LOG, "witness": WITNESS}


def make_key(path: Path, kind: Kind, name: str, issuer: str = "") -> VerifierKey:
    """Make a key and write its file.

    Args:
        path: The file to write; it must not exist.
        kind: The owner's role.
        name: The log's origin, or the witness's name.
        issuer: The mint's public base URL, for a log.

    Returns:
        The public key.

    Raises:
        NoteError: The name is invalid.
        SettingsError: The file exists, or cannot be written.
    """
    # Before the file exists: a key whose name no signature line can hold would be useless, and is not overwritten.
    check_name(name)
    made = KeyFile.generate(kind, name, issuer)
    made.save(path)
    return _signer(made, kind).key


def read_signer(path: Path, kind: Kind) -> Signer:
    """Read a key file and return the signer.

    Args:
        path: The key file.
        kind: The expected role.

    Raises:
        SettingsError: The file is missing, other users can read it, or it is another kind of key.
    """
    held = KeyFile.load(path)
    # A witness's signature covers a time and a log's does not: with the wrong kind it would verify for no reader.
    if held.role != kind:
        raise SettingsError(f"{path} is the key of {held.role} {held.name}, not of a {kind}")
    return _signer(held, kind)


def _signer(held: KeyFile, kind: Kind) -> Signer:
    private = Ed25519PrivateKey.from_private_bytes(wire.bytes_of(held.key.private_jwk()["d"]))
    return Signer(held.name, private, _KINDS[kind])
