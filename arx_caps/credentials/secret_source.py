# SPDX-License-Identifier: Apache-2.0
"""Read secrets from the environment, a file or a keyring, so that no file of settings has one."""

import os
from pathlib import Path

from arx_verifier._platform import is_open_to_others
from arx_verifier.errors import SettingsError


class Secret(str):
    """A secret text.  Its ``repr`` does not show it, and so none of what holds it does."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


def read_secret(source: str, folder: Path, place: str = "") -> Secret:
    """Return a secret.

    Args:
        source: ``env:NAME``, ``file:PATH`` or ``keyring:SERVICE/USER``.
        folder: What a relative path is relative to.
        place: Of the secret in the file of settings, before each error.

    Raises:
        SettingsError: There is none, or others may read its file.
    """
    kind, _, name = source.partition(":")
    try:
        if kind == "env":
            value, hint = os.environ.get(name, ""), f"set {name} where the program starts"
        elif kind == "keyring":
            value, hint = _of_keyring(name), "store it with `keyring set SERVICE USER`, as the program's user"
        else:
            value, hint = _of_file(folder / name), "write it into the file"
    except SettingsError as error:
        raise SettingsError(f"{place}{source}: {error}") from None
    if not value:
        raise SettingsError(f"{place}{source}: expected a secret, got none; {hint}")
    if not value.isprintable() or not value.isascii():
        raise SettingsError(f"{place}{source}: expected a secret of one line of ASCII, got another")
    return Secret(value)


def _of_file(file: Path) -> str:
    try:
        if is_open_to_others(file.stat().st_mode):
            raise SettingsError(f"{file} holds a secret and can be read by others; run `chmod 600 {file}`")
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:  # its text has bytes of the secret
        raise SettingsError(f"{file}: expected a secret of one line of ASCII, got another") from None


def _of_keyring(place: str) -> str:
    try:
        import keyring  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise SettingsError("expected the package keyring; run `pip install keyring`") from None
    service, _, user = place.rpartition("/")
    try:
        return str(keyring.get_password(service, user) or "")
    except Exception as error:  # of any backend: its text may be about the secret
        raise SettingsError(f"the keyring failed: {type(error).__name__}") from None
