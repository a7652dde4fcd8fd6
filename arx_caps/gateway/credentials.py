# SPDX-License-Identifier: Apache-2.0
"""The credentials of upstreams: read from the environment, a file or a keyring, and put into a request last."""

import os
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from arx_caps.gateway.settings import CredentialTerms
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
        place: Of the secret in the gateway's file, before each error.

    Raises:
        SettingsError: There is none, or others may read its file.
    """
    kind, _, name = source.partition(":")
    try:
        if kind == "env":
            value, hint = os.environ.get(name, ""), f"set {name} where the gateway starts"
        elif kind == "keyring":
            value, hint = _of_keyring(name), "store it with `keyring set SERVICE USER`, as the gateway's user"
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
        if file.stat().st_mode & 0o077:
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


class Credential:
    """What a request to an upstream has in one header.

    Args:
        name: The upstream's name, for errors.
        terms: The upstream's table; None for an upstream without a credential.
        folder: What a relative path is relative to.

    Attributes:
        secrets: The secrets in the header.

    Raises:
        SettingsError: The secret cannot be read.
    """

    def __init__(self, name: str, terms: CredentialTerms | None, folder: Path) -> None:
        self._headers: Mapping[str, str] = {}
        self.secrets: tuple[Secret, ...] = ()
        if terms is not None:
            self.secrets = (read_secret(terms.source, folder, f"upstream.{name}: credential: "),)
            self._headers = {terms.header.lower(): Secret(terms.prefix + self.secrets[0])}

    async def headers(self, session: aiohttp.ClientSession) -> Mapping[str, str]:  # noqa: ARG002 - see ClientCredential
        """Return the header, in lower case.

        Args:
            session: Sends requests.
        """
        return self._headers

    def refused(self, headers: Mapping[str, str]) -> None:
        """Note that the upstream has refused the credential, which stays as it is.

        Args:
            headers: As ``headers`` returned them.
        """

    def __repr__(self) -> str:
        return "<Credential>"
