# SPDX-License-Identifier: Apache-2.0
"""The files of holder keys, and where a process finds its own.  SPEC 16.

A sub-agent makes its key where it runs and gives its delegator the public half.  ``arx_verifier.token`` has the key.
"""

import os
from pathlib import Path
from typing import Any, Final

import msgspec

from arx_caps.credentials.keyfile import KeyFile, read_secret
from arx_verifier.errors import ArxError, SettingsError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire
from arx_verifier.token.holder import HolderKey

VARIABLE: Final = "ARX_HOLDER_KEY"
_ROLES: Final = ("holder", "agent", "service")


class _Owner(msgspec.Struct):
    role: str


class _Jwk(msgspec.Struct):
    kty: str
    crv: str
    x: str
    d: str
    arx: _Owner | None = None


def make_holder_key(path: str | os.PathLike[str]) -> HolderKey:
    """Make a key and its file.

    Args:
        path: The file to make, mode 0600.

    Raises:
        SettingsError: The file exists, or cannot be written.
    """
    # It is the key of no mint and of no name: who delegates names its holder.
    made = KeyFile.generate("holder", "", "")
    made.save(path)
    return _key_of(made.key.private_jwk())


def load_holder_key(path: str | os.PathLike[str]) -> HolderKey:
    """Read the key of a holder.

    Args:
        path: A file of ``make_holder_key``; or a session file, or the key file of an agent or a service, which hold the
            keys that the mint binds tokens to.  Only its owner may read it.

    Raises:
        SettingsError: It is missing, other users can read it, or it has no such key.
    """
    return _read(read_secret(Path(path)), str(path))


def find_holder_key(variable: str = VARIABLE) -> HolderKey | None:
    """Return this process's key from its environment, or None where it names none.

    Args:
        variable: Holds the content of a key file, a secret; or, with ``_FILE`` behind its name, as
            ``ARX_HOLDER_KEY_FILE``, the path of the file.

    Raises:
        SettingsError: The file cannot be read, other users can read it, or it has no such key.
    """
    text, path = os.environ.get(variable), os.environ.get(f"{variable}_FILE")
    if text is not None:
        return _read(text.encode("utf-8", "replace"), variable)
    return None if path is None else load_holder_key(path)


def _read(raw: bytes, place: str) -> HolderKey:
    try:
        content = read_json_object(raw)
        return _key_of(content["key"] if "session" in content else content)
    except (ArxError, msgspec.ValidationError, KeyError, ValueError) as error:
        # Not chained: the text of a parser could quote the private half.
        raise SettingsError(
            f"{place}: expected a holder key, got another content ({type(error).__name__})",
            hint="`arx key create-holder FILE` makes one; an operator's key is none",
        ) from None


def _key_of(jwk: Any) -> HolderKey:
    found = msgspec.convert(jwk, _Jwk)
    # The keys of operators, logs and witnesses sign other things, and are in other hands.
    if (found.kty, found.crv) != ("OKP", "Ed25519") or (found.arx is not None and found.arx.role not in _ROLES):
        raise ValueError(found.kty)
    key = HolderKey(wire.bytes_of(found.d))
    if key.public != found.x:
        raise ValueError("the halves of different keys")
    return key
