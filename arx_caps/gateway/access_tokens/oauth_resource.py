# SPDX-License-Identifier: Apache-2.0
"""An upstream as a resource of OAuth: access tokens are taken in the place of ARx tokens.  CONTROL 5.5, RFC 9728, 9449.

An access token carries no authority.  The gateway gets the task's token from the mint, signs each request with it, and
the door behind decides and records as for an agent that signs by itself.  A token that is bound to a key of the client
needs a proof of each request (DPoP).
"""

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.agent.tasks.task import Task
from arx_caps.credentials.access_token import AccessToken, VerifyingKey, has_own_jwt, is_access_token, read_access_token
from arx_caps.credentials.jose import CLIENT_ALGORITHMS, check_client_dpop
from arx_caps.gateway.access_tokens.approved_calls import ApprovableCall, ApprovedCalls
from arx_caps.gateway.access_tokens.kept_answer import KeptAnswer
from arx_caps.gateway.access_tokens.oauth_server import ServerMetadata
from arx_caps.gateway.access_tokens.token_calls import TokenCaller
from arx_caps.gateway.base.asgi import Application, Message, Receive, Scope, Send, read_body, replay_body
from arx_caps.gateway.base.handle_decisions import MAX_HANDLES, HandleDecisions
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.mcp.exchange import ResourceCall
from arx_caps.mcp.errors import WireError
from arx_caps.mcp.message import read_message
from arx_caps.service.access_tokens import OpenedHandle, open_access_token, read_signing_keys
from arx_caps.service.own_key import read_own_key
from arx_verifier.clock import now_ms
from arx_verifier.enforcement.asgi.calls import http_call
from arx_verifier.enforcement.base.routes import collect_headers
from arx_verifier.errors import REASONS, ArxError, GrantError, ProofError, StoreError, TokenError, refusal
from arx_verifier.names import matches_tool
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.store_steps import run_async, steps_of
from arx_verifier.token import call_proof, wire
from arx_verifier.verification.verifier import Verifier

METADATA: Final = "/.well-known/oauth-protected-resource"
KEYS_S: Final = 300.0  # how long the mint's published keys are kept
SCOPES_S: Final = 60.0  # how long the scopes of the policy are kept
_LOOK_S: Final = 1.0  # between two requests for keys or for one access token: strangers must not make the gateway ask
_WAIT_S: Final = 1.0  # for the scopes of a challenge, which goes out without them then
_LONGEST_SCOPE: Final = 1024  # characters of a challenge: proxies bound the size of headers
_UNKNOWN_KEY: Final = "unknown_key"


class _Ended(NamedTuple):
    """An access token that stands for nothing, and until when the mint is not asked again (monotonic clock, s)."""

    claims: AccessToken
    code: str
    until: float


class _Held:
    """What a live access token stands for."""

    def __init__(self, claims: AccessToken, opened: OpenedHandle, audience: str) -> None:
        self.claims, self._scopes = claims, opened.scopes
        self.jkt = None if claims.cnf is None else claims.cnf.jkt
        self.macaroon = opened.bundle.tokens[audience]
        self.signer = call_proof.CallSigner(self.macaroon, audience)
        self.link, self._task = self.macaroon.unverified_identifier.id, Task(opened.bundle)
        # The next access token of the client is of the same session: a call may wait longer than one lives.
        chain = [claims.sid, claims.client_id, claims.sub]
        act = claims.act
        while act is not None:
            chain, act = [*chain, act.sub], act.act
        self._principal = "\0".join(chain)

    def caller(self, token: str, is_proven: bool) -> TokenCaller:
        """Return the client that sent the access token.

        Args:
            token: The access token, a secret.
            is_proven: Whether the request has a proof.
        """
        claims, agent = self.claims, self.claims.sub.removeprefix("agent:")
        return TokenCaller(token, self.macaroon, self._principal, agent, claims.scope, claims.iat * 1000, is_proven)

    def missing(self, tool: str | None) -> str | None:
        """Return the scopes to ask for if the token can allow no call of a tool; None if it can, or if none would.

        Args:
            tool: The tool; None for a request that is no call of one.
        """
        if tool is None or self._task.offers(tool):
            return None
        tools = self._scopes.items()
        more = [scope for scope, each in tools if any(matches_tool(wanted, tool) for wanted in each)]
        # With what it has: a client that asks for the scopes of a challenge alone would lose those.
        return " ".join(dict.fromkeys([*self.claims.scope.split(" "), min(more)])) if more else None


class OAuthResource:
    """What takes the access tokens of one upstream or decider, before what answers its requests.

    Args:
        verifier: The verifier of the audience.
        decisions: The sink of its decisions, which records those of access tokens with their assurance.
        service: The service file, with the service's own key.
        resource: The URL at which clients reach the upstream.
        max_body: The longest body, bytes.
        mcp: The door of an upstream that speaks MCP, whose calls may wait for an approval; else None.
        max_answer: The longest answer that is kept for a client, bytes.
        dpop: Whether each access token must be bound to a key of the client.

    Attributes:
        decisions: As given.
        metadata_path: The path of the resource's metadata.
        server: The metadata of the mint.

    Raises:
        SettingsError: The service file names no key of its own.
    """

    def __init__(
        self,
        verifier: Verifier,
        decisions: HandleDecisions,
        service: Path,
        resource: str,
        max_body: int,
        *,
        mcp: McpDoor | None = None,
        max_answer: int = 0,
        dpop: bool = False,
    ) -> None:
        self._verifier, self._resource, self._max_body = verifier, resource, max_body
        self.decisions, self._mcp, self._dpop = decisions, mcp, dpop
        own = read_own_key(service)
        self._key = own.key
        self._mint = MintClient(own.issuer, now=now_ms, ca=own.ca)
        self.server = ServerMetadata(self._mint, own)
        self._scopes = KeptAnswer(self._mint, own, "/v1/scopes", SCOPES_S)
        parts = urlsplit(resource)
        self.metadata_path = METADATA + parts.path.rstrip("/")
        self._metadata_url = f"{parts.scheme}://{parts.netloc}{self.metadata_path}"
        self._keys = KeptAnswer(self._mint, own, "/oauth/jwks", KEYS_S, read_signing_keys)
        self._asking: asyncio.Future[Any] | None = None
        self._handles: dict[bytes, asyncio.Future[_Held | _Ended]] = {}
        self._approved: ApprovedCalls | None = None
        if mcp is not None:
            self._approved = ApprovedCalls(
                mcp,
                verifier,
                self._mint,
                own,
                decisions,
                challenge=lambda scope, is_proven: self._challenges("insufficient_scope", scope, is_proven),
                longest=max_answer,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send, behind: Application) -> None:
        """Answer one HTTP request.

        Args:
            scope: As ASGI has it.
            receive: As ASGI has it.
            send: As ASGI has it.
            behind: What answers it once it is signed; the door of an upstream that speaks MCP.
        """
        value = collect_headers(scope["headers"]).get(b"authorization", b"")
        scheme, _, token = value.decode("latin-1").partition(" ")
        scheme, token = scheme.lower(), token.strip(" ")
        is_proven, is_token = scheme == "dpop", bool(token) and scheme in ("bearer", "dpop")
        # All but an ARx token: a client with another text logs in at a 401 alone.
        is_single = b"\n" not in value  # as `collect_headers` joins several
        if is_single and (not is_token or token.startswith(wire.TOKEN_PREFIX)):
            challenging = self._challenging(send, "invalid_token" if is_token else None)
            await _through(behind, ResourceCall(), scope, receive, challenging)
            return
        try:
            if not is_single:
                raise TokenError("expected one Authorization header, got several", code="malformed")
            held = await self._held(token)
            # A client with the wrong scheme learns which one its token needs.
            is_proven = is_proven or held.jkt is not None
            await self._prove(scope, scheme, token, held)
        except ArxError as error:
            if await self._passes(error, scope, receive, send, behind):
                return
            if not isinstance(error, TokenError):
                await self._refuse(send, 503, None, error.code)
                return
            peer = scope["client"][0] if scope.get("client") else None
            self._verifier.refuse(error.code if error.code in REASONS else "malformed", _nothing(peer))
            if self._mcp is not None:
                self._mcp.note_end(collect_headers(scope["headers"]), error.code)
            name = "invalid_dpop_proof" if error.code in ("proof_invalid", "replayed") else "invalid_token"
            wanted = self._scope_of(token) or await self._supported()
            await self._refuse(send, 401, name, error.code, wanted, is_proven, str(error))
            return
        body = await read_body(receive, self._max_body)
        if body is None:
            await self._refuse(send, 413, None, "too_large")
            return
        call = ResourceCall()
        if self._approved is not None:
            challenging = self._challenging(send, "invalid_token", None, held.claims.scope, is_proven)
            call = ApprovableCall(self._approved, held.caller(token, is_proven), scope, body, receive, challenging)
            if await call.answer():
                return
        fields = call_proof.http_fields(http_call(scope, body))
        call.sign = lambda: held.signer.sign(fields, now_ms())
        headers = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
        headers.append((b"authorization", b"Bearer " + call.sign().encode()))
        # A call that goes on in watch mode is not one that lacks a scope.
        more = held.missing(self._tool_of(body)) if self._verifier.watch is None else None
        answer = self._challenging(send, "invalid_token", more, held.claims.scope, is_proven)
        await _through(behind, call, {**scope, "headers": headers}, replay_body(body, receive), answer)

    async def _passes(self, error: ArxError, scope: Scope, receive: Receive, send: Send, behind: Application) -> bool:
        """Let a request with another token than a live access token go on, if the verifier watches."""
        watch = self._verifier.watch
        if watch is None or not watch.spares(error.code):
            return False
        # What was made for ARx is removed, for any resource; a credential of the client's own is not.
        kept = [pair for pair in scope["headers"] if pair[0] != b"authorization" or not has_own_jwt(pair[1])]
        await _through(behind, ResourceCall(), {**scope, "headers": kept}, receive, send)
        return True

    async def close(self) -> None:
        """End the running calls of tasks, and close the connection to the mint."""
        if self._approved is not None:
            await self._approved.close()
        await asyncio.to_thread(self._mint.close)

    async def signer(self, token: str) -> call_proof.CallSigner:
        """Return what signs calls with a live access token, for a decider that does not see its client's request.

        Args:
            token: The access token, a secret.

        Raises:
            TokenError: It is not valid now, or not active; ``proof_missing``: its client has to prove a key, or should.
            ArxError: The mint does not answer.
        """
        held = await self._held(token)
        if held.jkt is not None or self._dpop:
            raise refusal("proof_missing")
        return held.signer

    async def metadata(self) -> bytes:
        """Return the resource's metadata.  RFC 9728 2."""
        about: dict[str, Any] = {"resource": self._resource, "authorization_servers": [self._mint.issuer]}
        with contextlib.suppress(ArxError):  # a client that finds no scopes leaves the choice to the person
            about["scopes_supported"] = sorted((await self._scopes.get())["scopes"])
        about |= {"bearer_methods_supported": ["header"], "dpop_signing_alg_values_supported": CLIENT_ALGORITHMS}
        return json.dumps({**about, "dpop_bound_access_tokens_required": self._dpop}).encode()

    async def _prove(self, scope: Scope, scheme: str, token: str, held: _Held) -> None:
        """Require a new proof of the request by the key of a bound access token.  RFC 9449 7.

        Raises:
            TokenError: ``proof_missing``, ``proof_invalid`` or ``replayed``; ``malformed``: the token is not bound.
            StoreError: The nonce store does not answer, or has no room.
        """
        proofs = [value for name, value in scope["headers"] if name.lower() == b"dpop"]
        if held.jkt is None:
            # A client that sends a proof believes its token to be bound: it has another one, or is attacked.
            if proofs or scheme == "dpop":
                raise TokenError(
                    "the access token is bound to no key: send it as Bearer, without DPoP", code="malformed"
                )
            if self._dpop:
                raise refusal("proof_missing")
            return
        if scheme != "dpop":
            raise refusal("proof_missing")
        if len(proofs) != 1:
            raise ProofError(f"expected one DPoP header, got {len(proofs)}")
        url = self._base(scope["root_path"]) + scope["raw_path"].partition(b"?")[0].decode("latin-1")
        # As for a call: after a restart, one from the future would be taken for one that was not used.
        about: Any = {"now": now_ms(), "ahead_s": call_proof.MAX_AHEAD_MS // 1000}
        try:
            proof = check_client_dpop(proofs[0].decode(), method=scope["method"], url=url, token=token, **about)
        except (GrantError, ValueError) as error:
            raise ProofError(str(error)) from error
        if proof.jkt != held.jkt:
            raise ProofError("the proof is by another key than the access token is bound to")
        nonces = self._verifier.nonces
        key = sha256(f"dpop\0{proof.jkt}\0{proof.jti}".encode("utf-8", "surrogatepass")).digest()
        fresh = await run_async(steps_of(nonces.spend, key, proof.until, now_ms()))
        if fresh is None:
            raise StoreError("the nonce store has no room")
        if not fresh:
            raise refusal("replayed")
        if proof.issued_at < nonces.not_before(key):
            raise ProofError("the proof is of the second in which the gateway or its store started, or older")

    def _base(self, root: str) -> str:
        """Return what stands before the path of a request in the URL as clients know it."""
        # A proxy before the gateway may have taken a prefix of the path; one that asks a decider shows the whole path.
        return self._resource.removesuffix(root) if root else "{0.scheme}://{0.netloc}".format(urlsplit(self._resource))

    def _scope_of(self, token: str) -> str | None:
        """Return the scope of an access token that stood for a task, so that a client asks for the same again."""
        found = self._handles.get(sha256(token.strip(" ").encode("latin-1")).digest())
        return found.result().claims.scope if found is not None and found.done() and not found.exception() else None

    async def _supported(self) -> str | None:
        """Return all scopes of this resource, for a client that has had none; None if the mint does not answer soon."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._scopes.get())
            self._asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        asked = self._asking
        await asyncio.wait({asked}, timeout=_WAIT_S)
        if not asked.done() or asked.cancelled() or asked.exception() is not None:
            return None
        scopes = " ".join(sorted(asked.result()["scopes"]))
        return scopes if 0 < len(scopes) <= _LONGEST_SCOPE else None

    def _tool_of(self, body: bytes) -> str | None:
        """Return the tool that a message of MCP calls, or None."""
        if self._mcp is None:
            return None
        try:
            message = read_message(body)
        except (WireError, ArxError):
            return None  # the door refuses it
        name = message.params.get("name")
        return f"{self._verifier.audience}.{name}" if message.method == "tools/call" and type(name) is str else None

    async def _held(self, token: str) -> _Held:
        """Return what a live access token stands for.

        Raises:
            TokenError: It is not valid now, or not active.
            ArxError: The mint does not answer.
        """
        name = sha256(token.encode("latin-1")).digest()
        found = self._handles.get(name)
        if found is None or (found.done() and self._is_over(found)):
            claims = await self._read(token)
            found = self._handles.get(name)
            if found is None or (found.done() and self._is_over(found)):
                found = self._handles[name] = asyncio.ensure_future(self._open(token, claims))
                self._make_room()
        # Shielded: a client that goes must not end the request of another one with the same access token.
        held = await asyncio.shield(found)
        if isinstance(held, _Ended):
            raise refusal(held.code)
        if now_ms() >= held.claims.exp * 1000:
            raise refusal("expired")
        return held

    def _is_over(self, found: "asyncio.Future[_Held | _Ended]") -> bool:
        if found.cancelled() or found.exception() is not None:
            return True
        held = found.result()
        return isinstance(held, _Ended) and time.monotonic() >= held.until

    def _make_room(self) -> None:
        now = now_ms()
        for name, found in [*self._handles.items()][:2]:
            ended = found.done() and (self._is_over(found) or found.result().claims.exp * 1000 <= now)
            if ended or len(self._handles) > MAX_HANDLES:
                del self._handles[name]

    async def _open(self, token: str, claims: AccessToken) -> _Held | _Ended:
        try:
            opened = await asyncio.to_thread(open_access_token, self._mint, self._key, token)
        except TokenError as error:
            code = error.code if error.code in REASONS else "revoked"
            return _Ended(claims, code, time.monotonic() + _LOOK_S)
        held = _Held(claims, opened, self._verifier.audience)
        self.decisions.know(held.link, bound=held.jkt is not None)
        return held

    async def _read(self, token: str) -> AccessToken:
        """Return the claims of an access token for this resource.

        Raises:
            TokenError: It is not valid now, or for another resource.
            ArxError: The mint's keys cannot be fetched.
        """
        if not is_access_token(token):  # before the mint is asked for keys
            raise TokenError(f"expected an access token of {self._mint.issuer}, got another text", code="malformed")
        try:
            claims = self._claims(token, await self._keys.get())
        except TokenError as error:
            if error.code != _UNKNOWN_KEY:
                raise
            claims = self._claims(token, await self._keys.get(_LOOK_S))
        if claims.aud != self._resource:
            text = f"the access token is for another resource: expected {self._resource}, got {claims.aud!r:.200}"
            raise TokenError(text, code="wrong_audience")
        return claims

    def _claims(self, token: str, keys: Mapping[str, VerifyingKey]) -> AccessToken:
        return read_access_token(token, keys.get, issuer=self._mint.issuer, now=now_ms())

    def _challenging(
        self,
        send: Send,
        error: str | None = None,
        more: str | None = None,
        held: str | None = None,
        is_proven: bool = False,
    ) -> Send:
        """Return a ``send`` that adds to a refusal where to get an access token, and with which scope.

        Args:
            send: As ASGI has it.
            error: The error of a 401.
            more: The scopes without which the request is refused in any case; None if it may be allowed.
            held: The scope of the access token.
            is_proven: Whether the request has a proof (DPoP).
        """

        async def challenged(message: Message) -> None:
            if message["type"] == "http.response.start":
                if more is not None and message["status"] in (200, 403):
                    # The model's text stays; the status makes an OAuth client ask for the scope.
                    headers = self._headers(message["headers"], "insufficient_scope", more, is_proven)
                    message = {**message, "status": 403, "headers": headers}
                elif message["status"] == 401:
                    wanted = held or await self._supported()
                    message = {**message, "headers": self._headers(message["headers"], error, wanted, is_proven)}
            await send(message)

        return challenged

    def _headers(
        self, headers: Any, error: str | None, scope: str | None, is_proven: bool
    ) -> list[tuple[bytes, bytes]]:
        kept = [pair for pair in headers if pair[0].lower() != b"www-authenticate"]
        return [*kept, *self._challenges(error, scope, is_proven)]

    def _challenges(self, error: str | None, scope: str | None, is_proven: bool) -> list[tuple[bytes, bytes]]:
        """Return the challenge of the scheme that a request used; both for one without a token.  RFC 9449 7.1."""
        parts = [f'realm="{self._verifier.keys.realm}"', f'resource_metadata="{self._metadata_url}"']
        parts += [f'error="{error}"'] if error else []
        parts += [f'scope="{scope}"'] if scope else []
        # Bearer first: clients that know nothing of DPoP read the first one alone.
        schemes = ("DPoP",) if is_proven or self._dpop else ("Bearer",) if error else ("Bearer", "DPoP")
        algorithms = {"Bearer": [], "DPoP": [f'algs="{" ".join(CLIENT_ALGORITHMS)}"']}
        return [
            (b"www-authenticate", f"{scheme} {', '.join(parts + algorithms[scheme])}".encode()) for scheme in schemes
        ]

    async def _refuse(
        self,
        send: Send,
        status: int,
        error: str | None,
        code: str,
        scope: str | None = None,
        is_proven: bool = False,
        detail: str = "",
    ) -> None:
        problem = {"title": "The access token is not accepted", "status": status, "code": code}
        problem |= {"detail": detail} if detail else {}
        data = json.dumps(problem if status == 401 else problem | {"title": "The call was not made"}).encode()
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(data))]
        headers.append((b"cache-control", b"no-store"))
        headers += self._challenges(error, scope, is_proven) if status == 401 else []
        headers += [(b"retry-after", b"1")] if status == 503 else []
        with contextlib.suppress(OSError):
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": data})


def before(resource: OAuthResource | None, behind: Application) -> Application:
    """Return the application of a resource and what is behind it; only the latter if there is no resource.

    Args:
        resource: The resource, or None.
        behind: As of ``OAuthResource``.
    """
    return behind if resource is None else functools.partial(resource, behind=behind)


async def _through(behind: Application, call: ResourceCall, scope: Scope, receive: Receive, send: Send) -> None:
    if isinstance(behind, McpDoor):
        await behind(scope, receive, send, call)
    else:
        await behind(scope, receive, send)


def _nothing(peer: str | None) -> AccessRequest:
    return AccessRequest("", {}, now_ms(), peer)
