# SPDX-License-Identifier: Apache-2.0
"""Make and read key files of witnesses.  LOG 1.2.

They have the form of other key files (``keyfile``).  The key's public text is ``note.VerifierKey``.  A log's key is
sealed like the root keys of its mint, which makes and reads it.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from arx_caps.audit.merkle.note import WITNESS, Signer, VerifierKey, check_name
from arx_caps.credentials.keyfile import KeyFile
from arx_verifier.errors import SettingsError
from arx_verifier.token import wire


def make_key(path: Path, name: str) -> VerifierKey:
    """Make a witness's key and write its file.

    Args:
        path: The file to write; it must not exist.
        name: The witness's name.

    Returns:
        The public key.

    Raises:
        NoteError: The name is invalid.
        SettingsError: The file exists, or cannot be written.
    """
    # Before the file exists: a key whose name no signature line can hold would be useless, and is not overwritten.
    check_name(name)
    made = KeyFile.generate("witness", name, "")
    made.save(path)
    return _signer(made).key


def read_signer(path: Path) -> Signer:
    """Read a witness's key file and return its signer.

    Args:
        path: The key file.

    Raises:
        SettingsError: The file is missing, other users can read it, or it is another kind of key.
    """
    held = KeyFile.load(path)
    if held.role != "witness":
        raise SettingsError(f"{path} is the key of {held.role} {held.name}, not of a witness")
    return _signer(held)


def _signer(held: KeyFile) -> Signer:
    private = Ed25519PrivateKey.from_private_bytes(wire.bytes_of(held.key.private_jwk()["d"]))
    return Signer(held.name, private, WITNESS)
