# SPDX-License-Identifier: Apache-2.0
"""Lend an access token of a person's account to one live call of a service.  CONTROL 9.3.

One refresh runs at once for a connection, over all mints, and what it gives is stored before it leaves: an issuer that
sees one refresh token twice may end the whole grant.
"""

import contextlib
import logging
import secrets
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from arx_caps.credentials.access_token import sign_jwt
from arx_caps.credentials.account_token import AskedToken, LentToken, TokenAnswer
from arx_caps.mint.connections.account_issuer import (
    ID_JAG,
    TOKEN_TYPE,
    AccountIssuer,
    RefreshRefusedError,
    ScopesRefusedError,
    denied,
    issuer_of,
)
from arx_caps.mint.connections.connect import make_link
from arx_caps.mint.connections.vault import (
    HeldAccess,
    HeldTokens,
    PersonKey,
    SealError,
    TokenSeal,
    open_key,
    open_tokens,
)
from arx_caps.mint.context import MINT, MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import ConnectionRow
from arx_caps.mint.identity.session_login import subject_of
from arx_caps.mint.login.issuer_client import IssuerBusyError, digest_of
from arx_caps.mint.tasks.token_exchange import PresentedTask, read_presented
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, SettingsError, UnavailableError
from arx_verifier.token.targets import subject_target

Seal: TypeAlias = Callable[[LentToken], str]
_log = logging.getLogger(__name__)
LENT_MS: Final = 5 * 60_000  # the longest time that a gateway uses a token
EARLY_MS: Final = 60_000  # before its end, a token is not lent any more
REFRESH_MS: Final = 30_000  # longer than an issuer's answer is waited for: another mint does not begin meanwhile
ANSWER_MS: Final = 25_000  # of it, for the connection and the answer: without these left, the token is not sent
_MENDED_BY_LINK: Final = ("connection_missing", "connection_scope", "connection_ended")
ACTOR_S: Final = 60  # the life of a token that names the agent at an exchange


def lend_token(mint: MintContext, service: str, asked: AskedToken, seal: Seal) -> TokenAnswer:
    """Return an access token of the person on whose behalf a call is made, or what prevents it.

    Args:
        mint: The mint.
        service: The authenticated service that asks.
        asked: What it asks for.
        seal: Seals what is lent to it.

    Raises:
        TokenError: The call's token is invalid, or its task does not live.
        GrantError: The service may have no token of this connection, or its token is not of a task.
        UnavailableError: The kill epoch is unknown now.
    """
    issuer = issuer_of(mint, asked.connection)
    home = issuer_of(mint, issuer.terms.through or asked.connection)
    if service not in issuer.terms.audiences:
        raise denied(f"{service} may have no token of {asked.connection}: add it to `audiences` of the connection")
    presented = read_presented(mint, service, asked.token)
    subject = subject_of(presented.session)
    if subject is None:
        return TokenAnswer("subject_required", "", (), ())
    wanted = _scopes(mint, issuer, presented, asked)

    def answer(state: str, have: tuple[str, ...] = (), sealed: str | UnsetType = UNSET) -> TokenAnswer:
        link = make_link(mint, subject, asked.connection) if state in _MENDED_BY_LINK else UNSET
        return TokenAnswer(state, subject.name, wanted, have, link, sealed)

    row = mint.db.connections.latest(subject_target(subject.issuer, subject.name), home.name)
    if row is None:
        return answer("connection_missing")
    have = row.scopes
    code = _refusal_of(mint, home, row)
    if code is None and home is issuer and not set(wanted) <= set(have):
        code = "connection_scope"
    if code is not None:
        return answer(code, have)
    try:
        found = _access_of(mint, issuer, row, wanted, presented.task.agent, asked.refused)
    except ScopesRefusedError:  # the issuer has lowered those of the refresh token: to connect again gives all
        return answer("connection_scope")
    except (RefreshRefusedError, SettingsError, UnavailableError) as error:
        return answer(_state_of(mint, row, error), have)
    if not set(wanted) <= set(found.scopes):  # the issuer has given less than it was asked for
        if home is not issuer:  # to connect again would give no more
            raise denied(f"connection: the issuer of {issuer.name} gives {subject.name} no {' '.join(wanted)}")
        return answer("connection_scope", found.scopes)
    lent = _lent(mint, service, asked.tool, presented, row, found)
    return answer("connection_unavailable", have) if lent is None else answer("lent", have, seal(lent))


def _state_of(mint: MintContext, row: ConnectionRow, error: ArxError) -> str:
    """Return the state of an answer without a token; end a connection that nothing can refresh."""
    if isinstance(error, IssuerBusyError):
        return "busy"
    if isinstance(error, RefreshRefusedError):
        facts = {"connection": row.id, "name": row.name, "subject": row.subject, "why": "issuer"}
        mint.db.connections.end(row.id, "issuer", Event.of("connection.ended", MINT, **facts))
        return "connection_ended"
    _log.warning("%s", error)
    # Of a seal: the row was moved, or its key is gone.
    return "connection_ended" if isinstance(error, SealError) else "connection_unavailable"


def _lent(
    mint: MintContext, service: str, tool: str, presented: PresentedTask, row: ConnectionRow, found: HeldAccess
) -> LentToken | None:
    """Record what is lent, and return it; None if the connection was killed or frozen meanwhile."""
    # Last: a kill that came during a refresh ends what it gave.
    born = mint.kills.born()
    if mint.epochs.check(row.incarnation, row.born, targets_of(row)):
        return None
    until = min(found.until, now_ms() + LENT_MS, presented.until)
    facts: dict[str, Any] = {"connection": row.id, "name": row.name, "account": row.account}
    facts |= {"session": presented.session.id, "task": presented.task.id, "agent": presented.task.agent}
    facts |= {"scopes": found.scopes, "audience": service, "tool": tool, "until": until}
    mint.db.record(Event.of("connection.lent", f"service:{service}", **facts))
    mint.db.connections.note_used(row.id)
    return LentToken(found.token, until, row.id, row.account, found.scopes, born[:2])


def _scopes(mint: MintContext, issuer: AccountIssuer, presented: PresentedTask, asked: AskedToken) -> tuple[str, ...]:
    """Return the scopes of a call, by the policy in force.

    Raises:
        GrantError: ``connection_refused``: the policy names none, or more than the realm's settings; or the token
            does not allow the tool.
    """
    if asked.tool and not presented.chain.could_allow(asked.tool, {}):
        raise denied(f"the token allows no call of {asked.tool}")
    named = presented.task.template.split(" ")
    templates = [mint.policy.templates[name] for name in named if name in mint.policy.templates]
    several = [template.scopes_at(asked.connection, asked.tool) for template in templates]
    wanted = tuple(dict.fromkeys(scope for scopes in several for scope in scopes))
    what = asked.tool or "a message that calls no tool"
    if not wanted:
        raise denied(
            f"the policy names no scopes of {asked.connection} for {what}: add `upstream` to [task.{named[0]}]"
        )
    if not set(wanted) <= set(issuer.terms.scopes):
        raise denied(f"{what} needs scopes that [connection.{asked.connection}] does not have: {' '.join(wanted)}")
    return wanted


def _refusal_of(mint: MintContext, issuer: AccountIssuer, row: ConnectionRow) -> str | None:
    """Return why a connection lends nothing now; None if it may."""
    # An account of the issuer that the settings named before is none of the one that they name now.
    if row.status != "open" or row.issuer != issuer.terms.issuer:
        return "connection_ended"
    refused = mint.epochs.check(row.incarnation, row.born, targets_of(row))
    if refused is None:
        return None
    return "connection_ended" if refused.code == "revoked" else "connection_unavailable"


def targets_of(row: ConnectionRow) -> tuple[str, ...]:
    """Return the targets whose kill or freeze ends the use of a connection."""
    return ("realm", row.subject, f"connection:{row.id}")


def _access_of(
    mint: MintContext, issuer: AccountIssuer, row: ConnectionRow, wanted: tuple[str, ...], agent: str, refused: str
) -> HeldAccess:
    """Return an access token: one of the connection, or one that the person's token at another issuer is exchanged for.

    Raises:
        IssuerBusyError: Other calls refresh, or wait for an issuer.
        RefreshRefusedError: The issuer of the person's token has ended the grant.
        GrantError: An issuer refuses the exchange.
        UnavailableError: An issuer does not answer.
    """
    home = issuer_of(mint, row.name)
    if home is issuer:
        return _token_of(mint, issuer, row, " ".join(sorted(wanted)), refused)
    have = " ".join(sorted(row.scopes))
    is_new = now_ms() - (row.refreshed_at or row.created_at) < EARLY_MS
    own = _token_of(mint, home, row, have, "")
    try:
        return _exchange(mint, issuer, home, own, wanted, agent)
    except GrantError:
        # Once anew: the token may have been revoked, or its ID token has expired. An issuer that refuses all of them
        # does not have one refreshed for each call.
        if is_new or _opened(mint, row)[2].refresh is None:
            raise
    own = _token_of(mint, home, row, have, digest_of(own.token))
    return _exchange(mint, issuer, home, own, wanted, agent)


def _exchange(
    mint: MintContext, issuer: AccountIssuer, home: AccountIssuer, own: HeldAccess, wanted: tuple[str, ...], agent: str
) -> HeldAccess:
    """Exchange a person's token; nothing is stored of what comes of it."""
    terms, scopes = issuer.terms, " ".join(wanted)
    if terms.mode == ID_JAG:
        if not own.identity:
            raise denied(f"connection: the issuer of {home.name} gives no ID token")
        about = {"audience": terms.issuer, "resource": terms.upstream, "scope": scopes}
        with home.place(), issuer.place():  # both, before one of them is asked
            assertion = home.exchange(own.identity, "id_token", ID_JAG, **about).access_token
            return issuer.take_assertion(assertion, scopes).held(wanted)
    more: dict[str, str | None] = {"audience": terms.upstream, "scope": scopes}
    if terms.names_agent:
        kid, key = mint.signing_keys.signer()
        now = now_ms() // 1000
        claims = {"iss": mint.realm.issuer, "sub": f"agent:{agent}", "aud": terms.issuer, "iat": now}
        claims |= {"exp": now + ACTOR_S, "jti": secrets.token_hex(16)}
        # A type of its own: no verifier of ARx takes it for an access token or an ID token.
        more |= {"actor_token": sign_jwt(claims, kid, key, "arx-actor+jwt"), "actor_token_type": f"{TOKEN_TYPE}jwt"}
    with issuer.place():
        return issuer.exchange(own.token, "access_token", "access_token", **more).held(wanted)


def _token_of(mint: MintContext, issuer: AccountIssuer, row: ConnectionRow, scopes: str, refused: str) -> HeldAccess:
    """Return an access token; refresh if there is none.

    Raises:
        IssuerBusyError: Another call refreshes, or too many wait for the issuer.
        RefreshRefusedError: The issuer has ended the grant, or nothing can refresh it.
        GrantError: The issuer refuses the scopes.
        UnavailableError: The issuer does not answer.
    """
    kept = _kept(_opened(mint, row)[2], scopes, refused)
    if kept is not None:
        return kept
    # Before the lock: a call that waits for a place, or for the issuer's metadata, uses no refresh token.
    with issuer.place():
        issuer.read_metadata()
        return _refreshed(mint, issuer, row, scopes, refused)


def _refreshed(mint: MintContext, issuer: AccountIssuer, row: ConnectionRow, scopes: str, refused: str) -> HeldAccess:
    """Refresh under the lock, and return the access token; see ``_token_of``."""
    own, until = secrets.token_hex(16), now_ms() + REFRESH_MS
    if not mint.db.connections.lock(row.id, own, until):
        raise IssuerBusyError("another call refreshes the connection", code="issuer_unavailable")
    issued, is_clear = None, True
    try:
        # Read again: another call may have refreshed between the look above and the lock.
        # The key of before the refresh: in its time `arx key reseal` may seal it with what this mint has not read.
        latest, key, held = _opened(mint, mint.db.connections.find(row.id) or row)
        kept = _kept(held, scopes, refused)
        if kept is not None:
            return kept
        if held.refresh is None:
            raise RefreshRefusedError("the issuer gave no refresh token", code="connection_ended")
        if now_ms() > until - ANSWER_MS:
            raise UnavailableError("the lock of the refresh is almost over", code="issuer_unavailable")
        is_clear = False  # the issuer may use the token up: without an answer the next call tries it once more
        issued = issuer.refresh(held.refresh, scopes)
    except (GrantError, SettingsError):  # without the client's secret, nothing was sent
        is_clear = True
        raise
    finally:
        if issued is None:
            mint.db.connections.unlock(row.id, own, is_clear=is_clear)
    given = issued.held(scopes.split(" "))
    live = {name: each for name, each in held.access.items() if each.until > now_ms() and name != scopes}
    refresh = issued.refresh_token or held.refresh
    tokens = msgspec.structs.replace(held, refresh=refresh, access=live | {scopes: given})
    with contextlib.suppress(SettingsError):  # the person was erased meanwhile
        if mint.db.connections.refreshed(latest, own, TokenSeal(mint, latest, tokens, key)):
            return given
    # It was ended meanwhile, or this process was stopped for longer than the lock: what was given is not used.
    issuer.revoke(issued.refresh_token or issued.access_token)
    raise UnavailableError("the connection has changed meanwhile", code="issuer_unavailable")


def _opened(mint: MintContext, row: ConnectionRow) -> tuple[ConnectionRow, PersonKey, HeldTokens]:
    """Return a connection, its person's key and its tokens; read again if the key was rotated since the row was read.

    Raises:
        SettingsError: They do not open.
    """
    db = mint.db.connections
    key = open_key(mint, db.person_key(row.subject))
    while True:
        try:
            return row, key, open_tokens(mint, row, key)
        except SettingsError:
            latest, again = db.find(row.id) or row, open_key(mint, db.person_key(row.subject))
            if (latest.sealed, again.made_at) == (row.sealed, key.made_at):
                raise
            row, key = latest, again


def _kept(held: HeldTokens, scopes: str, refused: str) -> HeldAccess | None:
    """Return the access token of some scopes that is still to be used."""
    found = held.access.get(scopes)
    if found is None and held.refresh is None:  # nothing lowers the scopes of the one that there is
        found = next(iter(held.access.values()), None)
    if found is None or found.until < now_ms() + EARLY_MS or digest_of(found.token) == refused:
        return None
    return found
