# SPDX-License-Identifier: Apache-2.0
"""Key files of logs and witnesses: what signs a note, and its public text for everybody.  SPEC 17.2.

They have the form of every other key file (``keyfile``): one user's, made once, never overwritten.  A log's key is its
identity for as long as it lives, so that it depends on no other key that is changed from time to time.
"""

from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from arx_caps.audit.note import LOG, WITNESS, Signer, VerifierKey, check_name
from arx_caps.keyfile import KeyFile
from arx_verifier.errors import SettingsError
from arx_verifier.token import wire

Kind = Literal["log", "witness"]
_KINDS: Final[dict[Kind, int]] = {"log": LOG, "witness": WITNESS}


def make_key(path: Path, kind: Kind, name: str, issuer: str = "") -> VerifierKey:
    """Make a key and its file.

    Args:
        path: Where; nothing may be there.
        kind: Whose key.
        name: The log's origin, or the witness's name.
        issuer: The mint's public base URL, for a log.

    Returns:
        The public key.

    Raises:
        NoteError: This cannot be a name.
        SettingsError: The file exists already, or cannot be written.
    """
    check_name(name)
    made = KeyFile.generate(kind, name, issuer)
    made.save(path)
    return _signer(made, kind).key


def read_signer(path: Path, kind: Kind) -> Signer:
    """Read what signs.

    Raises:
        SettingsError: There is no such file, others can read it, or it is another kind of key.
    """
    held = KeyFile.load(path)
    if held.role != kind:
        raise SettingsError(f"{path} is the key of {held.role} {held.name}, not of a {kind}")
    return _signer(held, kind)


def _signer(held: KeyFile, kind: Kind) -> Signer:
    private = Ed25519PrivateKey.from_private_bytes(wire.bytes_of(held.key.private_jwk()["d"]))
    return Signer(held.name, private, _KINDS[kind])
