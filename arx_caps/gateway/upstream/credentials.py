# SPDX-License-Identifier: Apache-2.0
"""The credentials of upstreams, put into a request last."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import aiohttp

from arx_caps.credentials.secret_source import Secret, read_secret
from arx_caps.gateway.base.leaks import Leaks
from arx_caps.gateway.base.settings import CredentialTerms
from arx_verifier.journal.record import ChainFacts
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.watch import WatchedCall


class LiveCall(NamedTuple):
    """A call, or a message with a live token, whose requests get the upstream's credential.

    Attributes:
        token: Its token, a secret; empty for a call that watch mode passes.
        tool: Its tool; empty for a message that calls none.
        facts: The facts of its chain.
        grant: Its grant, which has the person's credential for the record; None for a message without a decision.
    """

    token: str
    tool: str
    facts: ChainFacts
    grant: Grant | None = None

    def __repr__(self) -> str:
        return f"<LiveCall of {self.tool}>"


def live_call(grant: Grant | WatchedCall) -> LiveCall | None:
    """Return the call of a grant; None if its requests keep the client's own headers.

    Args:
        grant: The grant, or the call that watch mode passes.
    """
    granted = grant if isinstance(grant, Grant) else None
    return LiveCall(granted.token if granted else "", grant.tool, grant.facts, granted) if grant.lends else None


class Credential:
    """What a request to an upstream has in one header.

    Args:
        name: The upstream's name, for errors.
        terms: The upstream's table; None for an upstream without a credential.
        folder: What a relative path is relative to.

    Raises:
        SettingsError: The secret cannot be read.
    """

    def __init__(self, name: str, terms: CredentialTerms | None, folder: Path) -> None:
        self._name = name
        self._headers: Mapping[str, str] = {}
        self._leaks = Leaks(name, ())
        if terms is not None:
            secret = read_secret(terms.source, folder, f"upstream.{name}: credential: ")
            self._headers = {terms.header.lower(): Secret(terms.prefix + secret)}
            self._leaks = Leaks(name, (secret,))

    async def headers(
        self,
        session: aiohttp.ClientSession,  # noqa: ARG002 - see ClientCredential
        call: LiveCall,  # noqa: ARG002 - see PersonCredential
    ) -> Mapping[str, str]:
        """Return the header, in lower case.

        Args:
            session: Sends requests.
            call: The call that the request is of.
        """
        return self._headers

    def leaks(self, headers: Mapping[str, str]) -> Leaks:  # noqa: ARG002 - see PersonCredential
        """Return what finds the credential in an answer.

        Args:
            headers: As ``headers`` has just returned them; empty for a request without the credential.
        """
        return self._leaks

    def refused(self, status: int, headers: Mapping[str, str], call: LiveCall) -> None:
        """Note that the upstream has refused the credential; this one stays as it is.

        Args:
            status: 401 or 403.
            headers: As ``headers`` returned them.
            call: The call that was refused.

        Raises:
            LendingError: It refuses the person.
        """

    async def close(self) -> None:
        """Close what fetches it."""

    def __repr__(self) -> str:
        return "<Credential>"
