# SPDX-License-Identifier: Apache-2.0
"""The credential of an upstream that sees each person: an access token of the person's own account.  CONTROL 9.3.

The mint lends a token to one live call.  The gateway keeps it in memory for later calls of the same task to the same
tool, for five minutes at most, and drops it with a kill.  No refresh token comes here.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import aiohttp
from msgspec import UNSET

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.account_token import LentToken, TokenAnswer
from arx_caps.credentials.secret_source import Secret
from arx_caps.gateway.base.leaks import Leaks
from arx_caps.gateway.base.settings import CredentialTerms
from arx_caps.gateway.base.upstream_answer import LendingError
from arx_caps.gateway.upstream.credentials import Credential, LiveCall
from arx_caps.service.access_tokens import ask_connection_token
from arx_caps.service.own_key import read_own_key
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, TokenError
from arx_verifier.journal.record import ChainFacts, CredentialRecord
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.token.targets import subject_target

_MOST_KEPT: Final = 10_000  # tokens in memory
_WAIT_S: Final = 5.0  # for a refresh that another call has begun
_LOOK_S: Final = 0.1  # between two requests meanwhile
_AGAIN_S: Final = 5.0  # a token that is newer is not fetched anew, whatever the upstream answers

_Key = tuple[tuple[str, str] | None, str, str | None, str]


class _Kept(NamedTuple):
    """A lent token, the person's name, when it was lent (monotonic clock, s), and whether the upstream refused it."""

    lent: LentToken
    person: str
    at_s: float
    is_refused: bool = False


class PersonCredential(Credential):
    """What a request to an upstream has in one header: an access token of the person on whose behalf it is made.

    Args:
        name: The upstream's name, for errors.
        terms: Its table, with ``connection``.
        service: The service file of its audience, with the service's own key.
        epochs: The view of the realm's revocation epoch.

    Raises:
        SettingsError: The service file names no key of its own.
    """

    def __init__(self, name: str, terms: CredentialTerms, service: Path, epochs: Epochs) -> None:
        assert terms.connection is not None
        super().__init__(name, None, service.parent)
        own = read_own_key(service)
        self._connection, self._epochs, self._key = terms.connection, epochs, own.key
        self._mint = MintClient(own.issuer, now=now_ms, ca=own.ca)
        self._header, self._prefix = terms.header.lower(), terms.prefix or "Bearer "
        self._kept: dict[_Key, _Kept] = {}
        self._asking: dict[_Key, asyncio.Future[_Kept]] = {}

    async def headers(self, session: aiohttp.ClientSession, call: LiveCall) -> Mapping[str, str]:  # noqa: ARG002 - the mint is asked by its own client
        """Return the header with a token of the person.

        Args:
            session: Not used.
            call: The call.

        Raises:
            LendingError: The mint lends none now.
        """
        lent, source = await self._find(call)
        if call.grant is not None:
            call.grant.credential = CredentialRecord("person", lent.connection, lent.scopes, source)
            call.grant.account = lent.account
        return {self._header: Secret(self._prefix + lent.token)}

    def leaks(self, headers: Mapping[str, str]) -> Leaks:
        """Return what finds the person's token in an answer, without the prefix that its header has.

        Args:
            headers: As ``headers`` returned them.
        """
        return Leaks(self._name, [Secret(value.removeprefix(self._prefix)) for value in headers.values()])

    def refused(self, status: int, headers: Mapping[str, str], call: LiveCall) -> None:  # noqa: ARG002 - kept by the call
        """Drop a token that the upstream has refused, and raise.

        Args:
            status: 401 or 403.
            headers: Not used.
            call: The call.

        Raises:
            LendingError: ``connection_unavailable``, or ``upstream_denied`` if it refused the person.
        """
        key = _key_of(call.facts, call.tool)
        kept = self._kept.get(key)
        if status == 403:
            person = kept.person if kept is not None else "the person"
            text = f"{self._connection} refused {person}, not ARx: the account lacks a right there."
            raise LendingError(text, "upstream_denied", 403, {}, sent=True)
        # Not one that is new: an upstream that refuses each token would have one refreshed for each call.
        left_s = 0.0 if kept is None else kept.at_s + _AGAIN_S - time.monotonic()
        if kept is not None and left_s < 0:
            self._kept[key] = kept._replace(is_refused=True)
        data, wait_s = {"connection": self._connection}, 1 + max(0, int(left_s))
        text = f"{self._connection} refused the token of the person's account; try again in {wait_s} s."
        raise LendingError(text, "connection_unavailable", 503, data, wait_s=wait_s, sent=True)

    async def is_connected(self, link: str) -> bool:
        """Return whether an account was connected by a link; False if the mint does not answer.

        Args:
            link: The link's digest.
        """
        with contextlib.suppress(ArxError):
            path = f"/v1/connections/links/{link}"
            return (await asyncio.to_thread(self._mint.call, "GET", path, key=self._key)).get("connected") is True
        return False

    async def close(self) -> None:
        """Close the connection to the mint, and forget the tokens."""
        self._kept.clear()
        await asyncio.to_thread(self._mint.close)

    async def _find(self, call: LiveCall) -> tuple[LentToken, str]:
        """Return a token, and whether it was ``fetched`` or ``cached``."""
        key = _key_of(call.facts, call.tool)
        kept = self._kept.get(key)
        if kept is not None and not kept.is_refused and lives(kept.lent, call.facts, self._epochs):
            return kept.lent, "cached"
        if kept is not None and not kept.is_refused:
            del self._kept[key]  # it has ended, and the mint may lend no other
        asking = self._asking.get(key)
        if asking is None:
            # One request for all calls that wait for it: they are of one task and one tool, and so of one person.
            asking = self._asking[key] = asyncio.ensure_future(self._ask(call, key))
            asking.add_done_callback(lambda done: self._done(key, done))
        kept = await asyncio.shield(asking)
        if not lives(kept.lent, call.facts, self._epochs):
            raise LendingError("the connection has just ended.", "connection_unavailable", 503, {}, wait_s=1)
        return kept.lent, "fetched"

    def _done(self, key: _Key, done: "asyncio.Future[_Kept]") -> None:
        self._asking.pop(key, None)
        if not done.cancelled() and done.exception() is None:
            self._kept.pop(key, None)
            if len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]  # the oldest
            self._kept[key] = done.result()

    async def _ask(self, call: LiveCall, key: _Key) -> _Kept:
        """Ask the mint, again while another call of the person refreshes.

        Raises:
            LendingError: It lends none.
        """
        until_s, before = time.monotonic() + _WAIT_S, self._kept.get(key)
        refused = sha256(before.lent.token.encode()).hexdigest() if before is not None and before.is_refused else ""
        while True:
            asked_s = time.monotonic()
            try:
                answer, lent = await asyncio.to_thread(
                    ask_connection_token, self._mint, self._key, call.token, self._connection, call.tool, refused
                )
            except (GrantError, TokenError) as error:
                raise LendingError(f"{error}.", error.code, 403, {}) from None
            except ArxError:
                raise _unavailable(self._connection) from None
            if lent is not None:
                return _Kept(lent, answer.person, asked_s)
            if answer.state != "busy":
                _refuse(self._connection, answer)
            if time.monotonic() > until_s:
                raise _unavailable(self._connection)
            await asyncio.sleep(_LOOK_S)

    def __repr__(self) -> str:
        return "<PersonCredential>"


def lives(lent: LentToken, facts: ChainFacts, epochs: Epochs) -> bool:
    """Return whether a token may still be used: it has not expired, and nothing of it was killed or frozen.

    Args:
        lent: The token.
        facts: The facts of its call.
        epochs: The view of the realm's revocation epoch.
    """
    person = () if facts.subject is None else (subject_target(*facts.subject),)
    targets = ("realm", *person, f"connection:{lent.connection}")
    refused = epochs.check(*lent.born, targets)
    if refused is not None and refused.code == "behind":
        # The mint has seen the kills up to ``born``, and this view not yet: those that it has count.
        refused = epochs.ended(*lent.born, targets)
    return now_ms() < lent.until and refused is None


def _key_of(facts: ChainFacts, tool: str) -> _Key:
    """Return what a token is kept by: the person, the session, the task and the tool of its calls."""
    return facts.subject, facts.session, facts.task, tool


def _refuse(connection: str, answer: TokenAnswer) -> NoReturn:
    """Raise the refusal that a state of the mint's answer is."""
    who, link = answer.person, "" if answer.connect_url is UNSET else answer.connect_url
    ask = f"Ask {who} to open {link}, then repeat this call once."
    texts = {
        "connection_missing": f"{who} has not connected {connection}. {ask}",
        "connection_scope": (
            f"this call needs {' '.join(answer.wanted)}; "
            f"the connection of {who} has {' '.join(answer.have) or 'less by now'}. {ask}"
        ),
        "connection_ended": f"the connection of {who} to {connection} has ended. {ask}",
        "subject_required": "this tool works for a person only: this session acts on behalf of no person.",
    }
    if answer.state not in texts:
        raise _unavailable(connection)
    data = {"connection": connection} | ({"connect_url": link} if link else {})
    if answer.state == "connection_scope":
        data |= {"needs": " ".join(answer.wanted), "has": " ".join(answer.have)}
    raise LendingError(texts[answer.state], answer.state, 403, data)


def _unavailable(connection: str) -> LendingError:
    text = f"{connection}: no token of the person's account can be had now; the call was not forwarded."
    return LendingError(text, "connection_unavailable", 503, {"connection": connection}, wait_s=2)
