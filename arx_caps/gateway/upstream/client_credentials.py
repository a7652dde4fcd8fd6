# SPDX-License-Identifier: Apache-2.0
"""A credential that the gateway fetches: an access token by OAuth client credentials.  RFC 6749 4.4.

One token serves all calls of an upstream.  It is fetched by one call while the others wait, or go on with the one
before; and again a while before it expires, and once after the upstream has refused it.
"""

import asyncio
import logging
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote_plus, urlencode

import aiohttp
import msgspec

from arx_caps.credentials.secret_source import Secret, SecretStruct, read_secret
from arx_caps.gateway.base.leaks import Leaks
from arx_caps.gateway.base.settings import CredentialTerms
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.upstream.credentials import Credential, LiveCall

_FETCH_S: Final = 10.0
_LONGEST: Final = 64 * 1024  # of the endpoint's answer, bytes
_EARLY_S: Final = 60.0  # at most half of a token's time
_LASTS_S: Final = 300.0  # of a token whose answer has no time
_AGAIN_S: Final = 5.0  # between two fetches after one has failed, or after a fresh token was refused

_log = logging.getLogger(__name__)


class _TokenError(Exception):
    """An endpoint's answer without a token; the text has nothing of it."""


class _Answer(SecretStruct, frozen=True):
    access_token: str
    token_type: str
    expires_in: float = _LASTS_S


class ClientCredential(Credential):
    """What a request to an upstream has in one header: an access token.

    Args:
        name: The upstream's name, for errors.
        terms: Its table, with ``oauth``.
        folder: What a relative path is relative to.

    Raises:
        SettingsError: The client's secret cannot be read.
    """

    def __init__(self, name: str, terms: CredentialTerms, folder: Path) -> None:
        assert terms.oauth is not None
        super().__init__(name, None, folder)
        self._terms = terms.oauth
        self._client = read_secret(terms.source, folder, f"upstream.{name}: credential: ")
        self._leaks = Leaks(name, (self._client,))
        self._header, self._prefix = terms.header.lower(), terms.prefix or "Bearer "
        self._fetching = asyncio.Lock()
        # Monotonic clock, s: when the token is fetched again, when it expires, when a fetch may be tried again.
        self._renew_at = self._ends_at = self._try_at = 0.0

    async def headers(self, session: aiohttp.ClientSession, call: LiveCall) -> Mapping[str, str]:  # noqa: ARG002 - of all calls
        """Return the header; fetch a token if there is none.

        Args:
            session: Sends to the token endpoint.
            call: Not used: one token serves all calls.

        Raises:
            UpstreamError: There is none.
        """
        now = time.monotonic()
        if now >= self._renew_at and (now >= self._ends_at or not self._fetching.locked()):
            async with self._fetching:
                now = time.monotonic()
                if now >= self._renew_at and now >= self._try_at:  # else another call has fetched it, or could not
                    await self._renew(session, now)
        if time.monotonic() >= self._ends_at:
            raise UpstreamError(f"upstream {self._name}: its token endpoint gave no token", sent=False)
        return self._headers

    def refused(self, status: int, headers: Mapping[str, str], call: LiveCall) -> None:  # noqa: ARG002 - of all calls
        """Note that the upstream has refused a token: the next call fetches another one.

        Args:
            status: 401; a 403 is about no token.
            headers: As ``headers`` returned them.
            call: Not used.
        """
        # Not one that is new: an upstream that refuses each token would have one fetched for each call.
        if status == 401 and headers is self._headers and time.monotonic() >= self._try_at:
            self._renew_at = self._ends_at = 0.0

    async def _renew(self, session: aiohttp.ClientSession, now: float) -> None:
        self._try_at = now + _AGAIN_S
        try:
            async with asyncio.timeout(_FETCH_S):
                answer = await self._fetch(session)
            token = Secret(answer.access_token)
            if answer.token_type.lower() != "bearer" or not token or not token.isprintable() or not token.isascii():
                raise _TokenError("no bearer token of ASCII")
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError, _TokenError) as error:
            # The texts of the others may have what was sent or answered.
            why = str(error) if isinstance(error, _TokenError) else type(error).__name__
            _log.error("upstream %s: no token from its token endpoint: %s", self._name, why)
            return
        self._headers = {self._header: Secret(self._prefix + token)}
        self._leaks = Leaks(self._name, (self._client, token))
        self._ends_at = now + answer.expires_in
        self._renew_at = self._ends_at - min(_EARLY_S, answer.expires_in / 2)

    async def _fetch(self, session: aiohttp.ClientSession) -> _Answer:
        form = {"grant_type": "client_credentials", "scope": self._terms.scope, "resource": self._terms.resource}
        # RFC 6749 2.3.1: both are encoded as a form before they are joined.
        both = f"{quote_plus(self._terms.client_id)}:{quote_plus(self._client)}"
        headers = {"accept": "application/json", "content-type": "application/x-www-form-urlencoded"}
        headers["authorization"] = f"Basic {b64encode(both.encode()).decode()}"
        body = urlencode({name: value for name, value in form.items() if value}).encode()
        async with session.post(self._terms.token_url, data=body, headers=headers, allow_redirects=False) as answer:
            if answer.status != 200:
                raise _TokenError(f"status {answer.status}")
            data = b""
            async for part in answer.content.iter_any():
                data += part
                if len(data) > _LONGEST:
                    raise _TokenError(f"more than {_LONGEST} bytes")
        return msgspec.json.decode(data, type=_Answer, strict=False)  # some endpoints write `expires_in` as a text

    def __repr__(self) -> str:
        return "<ClientCredential>"
