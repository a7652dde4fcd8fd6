# SPDX-License-Identifier: Apache-2.0
"""The credentials of upstreams, put into a request last."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import aiohttp

from arx_caps.credentials.secret_source import Secret, read_secret
from arx_caps.gateway.base.settings import CredentialTerms
from arx_verifier.journal.record import ChainFacts


class LiveCall(NamedTuple):
    """The allowed call, or the message of a live token, that a request to an upstream is of.

    Attributes:
        token: Its token, a secret.
        tool: Its tool; empty for a message that calls none.
        facts: The facts of its chain.
    """

    token: str
    tool: str
    facts: ChainFacts

    def __repr__(self) -> str:
        return f"<LiveCall of {self.tool}>"


class Credential:
    """What a request to an upstream has in one header.

    Args:
        name: The upstream's name, for errors.
        terms: The upstream's table; None for an upstream without a credential.
        folder: What a relative path is relative to.

    Attributes:
        is_personal: Whether each call has a secret of its own, which is in its header alone.
        secrets: The secrets in the header of all calls.
        prefix: What the header has before the secret.

    Raises:
        SettingsError: The secret cannot be read.
    """

    is_personal: ClassVar[bool] = False

    def __init__(self, name: str, terms: CredentialTerms | None, folder: Path) -> None:
        self._headers: Mapping[str, str] = {}
        self.secrets: tuple[Secret, ...] = ()
        self.prefix = "" if terms is None else terms.prefix
        if terms is not None:
            self.secrets = (read_secret(terms.source, folder, f"upstream.{name}: credential: "),)
            self._headers = {terms.header.lower(): Secret(terms.prefix + self.secrets[0])}

    async def headers(
        self,
        session: aiohttp.ClientSession,  # noqa: ARG002 - see ClientCredential
        call: LiveCall | None,  # noqa: ARG002 - see PersonCredential
    ) -> Mapping[str, str]:
        """Return the header, in lower case.

        Args:
            session: Sends requests.
            call: The call that the request is of; None for a message that the gateway itself sends.
        """
        return self._headers

    def refused(self, headers: Mapping[str, str]) -> None:
        """Note that the upstream has refused the credential, which stays as it is.

        Args:
            headers: As ``headers`` returned them.
        """

    def check(self, status: int, call: LiveCall) -> None:
        """Raise what the upstream's 401 or 403 means, if it means more than that it refuses the gateway.

        Args:
            status: The status.
            call: The call that was refused.

        Raises:
            LendingError: It refuses the person.
        """

    async def close(self) -> None:
        """Close what fetches it."""

    def __repr__(self) -> str:
        return "<Credential>"
