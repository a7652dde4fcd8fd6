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


def read_secret(source: str, folder: Path) -> Secret:
    """Return a secret.

    Args:
        source: ``env:NAME``, ``file:PATH`` or ``keyring:SERVICE/USER``.
        folder: What a relative path is relative to.

    Raises:
        SettingsError: There is none, or others may read its file.
    """
    kind, _, place = source.partition(":")
    if kind == "env":
        value = Secret(os.environ.get(place, ""))
    elif kind == "keyring":
        value = _of_keyring(place)
    else:
        file = folder / place
        try:
            if file.stat().st_mode & 0o077:
                raise SettingsError(f"{file} holds a secret and can be read by others; run `chmod 600 {file}`")
            value = Secret(file.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file}: expected a file with a secret: {type(error).__name__}") from None
    if not value or not value.isprintable() or not value.isascii():
        raise SettingsError(
            f"{source}: expected a secret of one line of ASCII, got {'none' if not value else 'another'}"
        )
    return value


def _of_keyring(place: str) -> Secret:
    try:
        import keyring  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise SettingsError("keyring: expected the package keyring; run `pip install keyring`") from None
    service, _, user = place.rpartition("/")
    try:
        return Secret(keyring.get_password(service, user) or "")
    except Exception as error:  # of any backend: its text may be about the secret
        raise SettingsError(f"keyring:{place}: expected a secret: {type(error).__name__}") from None


class Credential:
    """What a request to an upstream has in one header.

    Args:
        terms: The upstream's table; None for an upstream without a credential.
        folder: What a relative path is relative to.

    Attributes:
        secrets: The secrets in the header.

    Raises:
        SettingsError: The secret cannot be read.
    """

    def __init__(self, terms: CredentialTerms | None, folder: Path) -> None:
        self._headers: Mapping[str, str] = {}
        self.secrets: tuple[Secret, ...] = ()
        if terms is not None:
            self.secrets = (read_secret(terms.source, folder),)
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
