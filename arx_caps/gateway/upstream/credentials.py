# SPDX-License-Identifier: Apache-2.0
"""The credentials of upstreams, put into a request last."""

from collections.abc import Mapping
from pathlib import Path

import aiohttp

from arx_caps.credentials.secret_source import Secret, read_secret
from arx_caps.gateway.base.settings import CredentialTerms


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
