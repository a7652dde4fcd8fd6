# SPDX-License-Identifier: Apache-2.0
"""Authenticate OAuth clients: by a secret, by a key of their own, or not at all if they are public.  CONTROL 5.2.

Clients that register themselves begin here, too: CONTROL 5.10.  Sources: RFC 6749 2.3, RFC 7523 3, RFC 7591.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import unquote_plus

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey
from msgspec import Meta

from arx_caps.credentials.keyfile import AlgorithmRegistry
from arx_caps.http.public_fetch import FetchError
from arx_caps.mint.context import MINT, ClientParts, HasDatabase, HasRealm
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.oauth.oauth_clients import SELF, end_of_unused
from arx_caps.mint.db.tables import OAuthClientRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.login.issuer_client import digest_of
from arx_caps.mint.oauth.client.client_metadata import (
    METHOD,
    invalid_metadata,
    read_client_document,
    read_client_metadata,
)
from arx_caps.mint.oauth.errors import OAuthCode, OAuthError
from arx_caps.mint.tasks.token_factory import new_name
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, RequestError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

SECRET_PREFIX: Final = "arxc1_"  # noqa: S105 - secret scanners find leaked secrets by it
SECRET_BYTES: Final = 32
ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_KEYS: Final = 4  # of one client: each is tried for an assertion that names none
ASSERTION_MS: Final = 5 * 60_000  # the longest life of an assertion, so that its id is not remembered for long
AHEAD_MS: Final = 30_000
MAX_CHARS: Final = 4096
_WRONG: Final = "the client is unknown, or did not prove that it is this client"
_ALGORITHMS: Final[Mapping[str, str]] = {"ES256": "ES256", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}


class OAuthClient(NamedTuple):
    """A client: an authenticated one, unless a grant proves it in another way.

    Attributes:
        id: The id of its row; empty for one that a document describes and no person has used.
        agent: The path of the agent that it is.
        scopes: The templates that it may start tasks of.
        introspects: The audiences whose tokens it may introspect.
        redirects: Its redirect URIs.
        public: Whether it has no credential: its id is all that it shows.
        proven: Whether it proved that it is this client; False if a form only names it.
        self_registered: Whether no operator has registered it.
        name: What it calls itself, if no operator has registered it.
        jkt: Thumbprint of the key that its proof of this request is by (RFC 9449); None without a proof.
        url: The URL of the document that describes it, or None.
        expires_at: When it ends, with its sessions and access tokens, ms since the Unix epoch; None for no end.
    """

    id: str
    agent: str
    scopes: tuple[str, ...]
    introspects: tuple[str, ...]
    redirects: tuple[str, ...]
    public: bool
    proven: bool = True
    self_registered: bool = False
    name: str | None = None
    jkt: str | None = None
    url: str | None = None
    expires_at: int | None = None

    @property
    def client_id(self) -> str:
        """The id under which it is known."""
        return self.id if self.url is None else self.url

    @property
    def session_key(self) -> str:
        """What its sessions are bound to in the place of a key."""
        # No thumbprint: no proof is by this key, so the session's token is of no use to anyone.
        return f"client:{self.id}"


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    # No key and no URL of one: a caller must not choose what it is verified with (RFC 8725 3.5).
    alg: str
    kid: Annotated[str, Meta(max_length=256)] | None = None
    typ: str = "JWT"


class _Claims(msgspec.Struct, frozen=True):
    iss: str
    sub: str
    aud: str | tuple[str, ...]
    exp: int | float
    jti: Annotated[str, Meta(min_length=8, max_length=256)]


_HEADER: Final = msgspec.json.Decoder(_Header)


def new_secret() -> tuple[str, str]:
    """Return a new client secret, and its digest for the database."""
    secret = SECRET_PREFIX + wire.text_of(secrets.token_bytes(SECRET_BYTES))
    return secret, digest_of(secret)


def read_client_keys(written: Sequence[Any]) -> list[dict[str, str]]:
    """Return the public keys of a client.

    Args:
        written: The ``keys`` of a JWK set.

    Raises:
        RequestError: There are too many or none; or one is private, or is neither Ed25519 nor P-256.
    """
    if not 0 < len(written) <= MAX_KEYS:
        raise RequestError(f"invalid keys: expected 1 to {MAX_KEYS}, got {len(written)}")
    keys = []
    for jwk in written:
        if isinstance(jwk, dict) and "d" in jwk:
            raise RequestError("this is a private key: send the public half, and make a new key, since this one is out")
        try:
            key = _key(jwk)
            public = {name: str(value) for name, value in key.as_dict(private=False).items() if name in _PUBLIC}
            keys.append({**public, "kid": str(jwk.get("kid") or key.thumbprint())[:256]})
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RequestError("invalid key: expected a JWK with OKP and Ed25519, or EC and P-256") from error
    return keys


_PUBLIC: Final = frozenset(("kty", "crv", "x", "y"))


def authenticate_client(
    mint: ClientParts, unit: UnitOfWork, form: Mapping[str, str], authorization: str | None
) -> OAuthClient:
    """Authenticate the client of a form.

    Args:
        mint: The mint.
        unit: The call's unit of work, in which an assertion is used.
        form: The form.
        authorization: The header ``Authorization``, or None.

    Raises:
        OAuthError: ``invalid_client``, one text for all causes; ``invalid_request``: it authenticates in two ways.

    Returns:
        The client; a public one has proved nothing.
    """
    ways = (authorization is not None, "client_secret" in form, "client_assertion" in form)
    if sum(ways) > 1:
        raise OAuthError("invalid_request", "the client authenticates in more than one way")
    named = find_client(mint, form.get("client_id", "")) if not any(ways) else None
    if named is not None and named.public:
        return named
    if "client_assertion" in form:
        row = _by_assertion(mint, unit, form)
    else:
        name, secret = _credentials(form, authorization)
        found = _registered(mint, name)
        expected = found.secret if found is not None and found.secret is not None else _NO_SECRET
        # Compared in any case: the time of an answer must not show which clients exist.
        if not hmac.compare_digest(digest_of(secret), expected) or found is None:
            raise OAuthError("invalid_client", _WRONG)
        row = found
    client = _client_of(mint, row)
    if form.get("client_id", client.client_id) != client.client_id:
        raise OAuthError("invalid_client", _WRONG)
    # Counted only now, so that a stranger cannot use up an agent's rate limit.
    mint.limits.count_agent(row.agent)
    return client


def named_client(mint: ClientParts, name: str) -> OAuthClient:
    """Return a client that is named and proves nothing: the grant must prove that it is this client.

    Args:
        mint: The mint.
        name: Its id.

    Raises:
        OAuthError: ``invalid_client``: there is none, with the text of a wrong secret.
    """
    client = find_client(mint, name)
    if client is None:
        raise OAuthError("invalid_client", _WRONG)
    return client


def find_client(mint: ClientParts, name: str, *, is_new: bool = False) -> OAuthClient | None:
    """Return a client that is named and proves nothing, or None.

    Args:
        mint: The mint.
        name: Its id.
        is_new: Whether it may be one that a document describes and that has no row yet.

    Raises:
        OAuthError: The document cannot be had, or is wrong.
    """
    row = _registered(mint, name, is_new=is_new)
    return None if row is None else _client_of(mint, row)._replace(proven=False)


def client_of_row(mint: ClientParts, name: str) -> OAuthClient | None:
    """Return the client that has a row, or None.

    Args:
        mint: The mint.
        name: The row's id.
    """
    row = mint.db.oauth_clients.find(name)
    return None if row is None else find_client(mint, row.id if row.url is None else row.url)


def require_row(mint: HasDatabase, client: OAuthClient) -> OAuthClient:
    """Return a client with a row: a new one, if it is one that a document describes and has none.

    Raises:
        GrantError: ``not_found``: its agent is not active; ``conflict``: another call has stored it: retry.
    """
    # Only here, after a login: strangers fill no table.
    if client.id:
        return client
    client = client._replace(id=new_name("c-"))
    row = OAuthClientRow(
        id=client.id, agent=client.agent, created_at=now_ms(), by=SELF, url=client.url, name=client.name
    )
    facts = {"agent": client.agent, "redirects": client.redirects, "name": client.name, "url": client.url}
    mint.db.oauth_clients.add(row, Event.of("client.registered", MINT, client=client.id, **facts))
    return client


def scopes_of(mint: HasRealm, row: OAuthClientRow) -> tuple[str, ...]:
    """Return the templates that a client may start tasks of: its own, or those of all that registered themselves."""
    if row.by == SELF:
        # As the settings are now: one that they no longer name ends for all of these clients.
        return () if mint.realm.clients is None else mint.realm.clients.scopes
    return row.scopes


def _client_of(mint: HasRealm, row: OAuthClientRow) -> OAuthClient:
    return OAuthClient(
        row.id,
        row.agent,
        scopes_of(mint, row),
        row.introspects,
        row.redirects,
        public=row.public,
        self_registered=row.by == SELF,
        name=row.name,
        url=row.url,
        expires_at=row.expires_at,
    )


_TYPES: Final = ("jwt", "client-authentication+jwt")
_NO_SECRET: Final = "0" * 64


def _credentials(form: Mapping[str, str], authorization: str | None) -> tuple[str, str]:
    if authorization is None:
        return form.get("client_id", ""), form.get("client_secret", "")
    scheme, _, text = authorization.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError(scheme)
        name, colon, secret = base64.b64decode(text.strip(), validate=True).decode().partition(":")
        if not colon:
            raise ValueError(colon)
    except (ValueError, binascii.Error):
        raise OAuthError("invalid_client", _WRONG) from None
    return unquote_plus(name), unquote_plus(secret)  # RFC 6749 2.3.1


def _by_assertion(mint: ClientParts, unit: UnitOfWork, form: Mapping[str, str]) -> OAuthClientRow:
    token = form["client_assertion"]
    if form.get("client_assertion_type") != ASSERTION:
        raise OAuthError("invalid_request", f"client_assertion_type: expected {ASSERTION}")
    try:
        header, claims = _read(token)
    except (ArxError, msgspec.MsgspecError, ValueError, RecursionError):
        raise OAuthError("invalid_client", _WRONG) from None
    # Until the signature holds, the claims choose a client's keys and nothing else.
    row = _registered(mint, claims.sub)
    algorithm = _ALGORITHMS.get(header.alg)
    if row is None or row.jwks is None or algorithm is None or header.typ.lower() not in _TYPES:
        raise OAuthError("invalid_client", _WRONG)
    if not any(_signed(token, jwk, algorithm) for jwk in row.jwks if header.kid in (None, jwk["kid"])):
        raise OAuthError("invalid_client", _WRONG)
    now, until = now_ms(), claims.exp * 1000  # not an integer yet: it may be infinite
    audiences = (claims.aud,) if isinstance(claims.aud, str) else claims.aud
    # The issuer alone: an assertion that names two servers could be used by one of them at the other.
    is_for_us = claims.iss == claims.sub and audiences == (mint.realm.issuer,)
    if not is_for_us or not now < until <= now + ASSERTION_MS + AHEAD_MS:
        raise OAuthError("invalid_client", _WRONG)
    unit.spend("client assertion", row.id, claims.jti, int(until))
    return row


def _read(token: str) -> tuple[_Header, _Claims]:
    if len(token) > MAX_CHARS or token.count(".") != 2:
        raise ValueError(token.count("."))
    header, payload, _ = token.split(".")
    claims = msgspec.convert(read_json_object(wire.bytes_of(payload)), _Claims)
    return _HEADER.decode(wire.bytes_of(header)), claims


def _signed(token: str, jwk: Mapping[str, str], algorithm: str) -> bool:
    """Return whether a key signed an assertion; the kind of key decides the algorithm."""
    try:
        key = _key(jwk)
        if (algorithm == "Ed25519") != isinstance(key, OKPKey):
            return False
        jws.deserialize_compact(token, key, registry=AlgorithmRegistry(algorithm))
    except (JoseError, ArxError, ValueError):
        return False
    return True


def _key(jwk: Any) -> Any:
    kind: Any = {("OKP", "Ed25519"): OKPKey, ("EC", "P-256"): ECKey}[jwk["kty"], jwk["crv"]]
    return kind.import_key({name: str(value) for name, value in jwk.items() if name in _PUBLIC})


def _registered(mint: ClientParts, client: str, *, is_new: bool = False) -> OAuthClientRow | None:
    if client.startswith("https://"):
        return _described(mint, client, is_new=is_new)
    row = mint.db.oauth_clients.find(client) if len(client) <= 32 and client.isascii() else None
    # One that a document describes is known by its URL alone.
    if row is None or row.ended_at is not None or row.url is not None:
        return None
    if row.expires_at is not None and row.expires_at <= now_ms():
        return None
    return row if row.by != SELF or _may_go_on(mint, row) else None


def _described(mint: ClientParts, url: str, *, is_new: bool) -> OAuthClientRow | None:
    """Return the row of a client that a document describes, with what the document says now."""
    terms = mint.realm.clients
    row = None if terms is None else mint.db.oauth_clients.by_url(url, terms.agent)
    # At the token endpoint a stranger makes the mint fetch nothing but what a person has used.
    if terms is None or (row is None and not is_new) or (row is not None and row.ended_at is not None):
        return None
    try:
        metadata, keys = read_client_document(url, mint.client_documents.find(url))
        jwks = None if keys is None else read_client_keys(keys)
    except FetchError as error:
        code: OAuthCode = "temporarily_unavailable" if error.may_retry else "invalid_client"
        raise OAuthError(code, f"the document of the client: {error}") from None
    except (OAuthError, RequestError) as error:
        raise OAuthError("invalid_client", f"the document of the client: {error}") from None
    row = row or OAuthClientRow(id="", agent=terms.agent, created_at=now_ms(), by=SELF, url=url)
    return msgspec.structs.replace(row, redirects=metadata.redirect_uris, name=metadata.client_name, jwks=jwks)


def _may_go_on(mint: HasRealm, row: OAuthClientRow) -> bool:
    """Return whether a client that registered itself is one of those that the settings let in now."""
    terms = mint.realm.clients
    if terms is None or not terms.register or row.agent != terms.agent:
        return False
    return now_ms() < end_of_unused(row, terms.unused_ms)


def register_client(mint: ClientParts, peer: str | None, raw: bytes) -> OAuthClientRow:
    """Register a client as what it says it is, a public one, and return its row.

    Args:
        mint: The mint.
        peer: The address that asks.
        raw: The JSON text.

    Raises:
        OAuthError: ``invalid_client_metadata`` or ``invalid_redirect_uri``; ``invalid_request``: the realm has no such
            clients; ``temporarily_unavailable``: it has as many as it may have, or their agent is not active.
        TooOftenError: Too many of that address have registered.
    """
    terms = mint.realm.clients
    if terms is None or not terms.register:
        raise OAuthError("invalid_request", "an operator registers the clients of this mint")
    metadata, _ = read_client_metadata(raw)
    # A secret of a program on many machines is none, so the mint gives a public client instead (RFC 7591 3.2.1).
    if metadata.token_endpoint_auth_method not in (None, METHOD, "client_secret_basic", "client_secret_post"):
        raise invalid_metadata("token_endpoint_auth_method: expected none")
    mint.limits.count_registration(peer)
    redirects, name = metadata.redirect_uris, metadata.client_name
    row = OAuthClientRow(
        id=new_name("c-"), agent=terms.agent, created_at=now_ms(), by=SELF, redirects=redirects, name=name
    )
    facts = {"agent": terms.agent, "redirects": redirects, "name": name}
    what = Event.of("client.registered", MINT, client=row.id, **facts)
    try:
        added = mint.db.oauth_clients.register(row, what, most=terms.most, unused_ms=terms.unused_ms)
    except GrantError as error:
        raise _unavailable(f"the agent of clients that register themselves: {error}") from None
    if not added:
        raise _unavailable("as many clients have registered themselves as this mint allows: ask an operator")
    return row


def _unavailable(text: str) -> OAuthError:
    return OAuthError("temporarily_unavailable", text)
