# SPDX-License-Identifier: Apache-2.0
"""Forward a request to an upstream over HTTP, with the upstream's credential and nothing of the client's.  SPEC 11."""

import asyncio
import contextlib
import functools
import re
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from arx_caps.credentials.access_token import has_own_jwt
from arx_caps.gateway.base.settings import CredentialTerms, UpstreamTerms
from arx_caps.gateway.base.spans import hand_on
from arx_caps.gateway.base.upstream_answer import UpstreamAnswer, UpstreamError
from arx_caps.gateway.upstream.client_credentials import ClientCredential
from arx_caps.gateway.upstream.credentials import Credential, LiveCall
from arx_verifier.enforcement import bounded_body
from arx_verifier.enforcement.base.enforcement import is_token
from arx_verifier.errors import SettingsError

_CONNECT_S: Final = 5.0
_IDLE_S: Final = 3.0  # shorter than most servers keep a connection: a call on one that is just closed would be lost
# RFC 9110 7.6.1: of one connection.  The others are of the client and this gateway: what an upstream could take for an
# identity, a place or a language of the answer's bytes does not come from a client.
_NOT_FORWARDED: Final = frozenset(
    (
        *(b"connection", b"host", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"),
        *(b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"content-length", b"accept-encoding"),
        *(b"authorization", b"cookie", b"forwarded", b"x-real-ip", b"dpop"),
        # Frameworks read another method or path from them than the one that was decided on.
        *(b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url"),
    )
)
_NOT_ANSWERED: Final = frozenset(
    (
        *(b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-authenticate"),
        *(b"content-length", b"set-cookie", b"www-authenticate", b"server", b"date"),
        *(b"authentication-info", b"proxy-authentication-info"),  # of the gateway's credential
        # Of the whole origin, and so of all upstreams: its storage, its transport, its reports, its scripts.
        *(b"clear-site-data", b"refresh", b"strict-transport-security", b"public-key-pins", b"expect-ct", b"alt-svc"),
        *(b"public-key-pins-report-only", b"nel", b"report-to", b"reporting-endpoints", b"service-worker-allowed"),
        *(b"origin-agent-cluster", b"origin-trial", b"accept-ch", b"critical-ch", b"set-login", b"use-as-dictionary"),
        *(b"secure-session-registration", b"sec-session-registration", b"activate-storage-access"),
        # For caches between, which would keep for all what was decided for one.
        *(b"expires", b"pragma", b"surrogate-control", b"edge-control", b"no-vary-search"),
        # For a proxy before the gateway, which would answer with a file or an address of its own network.
        *(b"x-accel-redirect", b"x-accel-expires", b"x-sendfile", b"x-lighttpd-send-file", b"x-reproxy-url"),
    )
)
# Pages of which origins may read an answer is the gateway's to say.
_NOT_BEGUN: Final = (b"access-control-", b"attribution-reporting-")
_CDN: Final = b"cdn-cache-control"  # and with the name of a provider before it
_SHARED: Final = re.compile(rb"(?:public|private|s-maxage|proxy-revalidate)[ \t]*(?:=.*)?", re.IGNORECASE | re.DOTALL)
_DIRECTIVE: Final = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)  # RFC 9111 5.2: a value may be quoted

Headers = list[tuple[bytes, bytes]]


class Forwarder:
    """Sends requests to one upstream.

    Args:
        name: The upstream's name.
        terms: Its table; it has a URL.
        folder: The folder of the gateway's file.
        person: The credential of an upstream that sees people's own accounts; None for the credential of ``terms``.

    Attributes:
        serves_one_holder: Whether what answers a caller knows of no other one.
        base: Its URL, which the target of a request follows.

    Raises:
        SettingsError: Its credential or its certificate authority cannot be read.
    """

    serves_one_holder = False

    def __init__(self, name: str, terms: UpstreamTerms, folder: Path, person: Credential | None = None) -> None:
        assert terms.url is not None
        self.name, self._terms = name, terms
        self.base = terms.url.rstrip("/") if terms.is_http else terms.url
        self._credential = _credential_of(name, terms.credential, folder) if person is None else person
        try:
            authority = str(folder / terms.ca) if terms.ca else None
            self._tls = ssl.create_default_context(cafile=authority) if urlsplit(self.base).scheme == "https" else None
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"upstream.{name}: ca: {type(error).__name__}") from None
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Make the connections' pool; call it in the event loop."""
        # A stream may be silent for long; what ends it is its token's end.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        # Each belongs to a connection of a client, and these are limited: with a limit here as well, open streams would
        # keep all other calls waiting.
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls or True, keepalive_timeout=_IDLE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type"),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._credential.close()
        if self._session is not None:
            await self._session.close()

    async def _once(self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """Send a request, and let aiohttp repeat none: it would send a GET, a PUT or a DELETE again.

        Raises:
            UpstreamError: The connection was lost.
        """
        try:
            return await send(request)
        except aiohttp.ClientConnectorError:
            raise  # which is not repeated
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise UpstreamError(f"upstream {self.name}: {type(error).__name__}", sent=True) from None

    @asynccontextmanager
    async def send(
        self,
        method: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | AsyncIterator[bytes],
        target: str = "",
        owner: str = "",  # noqa: ARG002 - see StdioUpstream
        *,
        call: LiveCall | None,
    ) -> AsyncIterator[UpstreamAnswer]:
        """Send a request; the answer is read in this context, whose end closes it.

        Args:
            method: The method.
            headers: The client's headers, of which those of an identity and of a connection are left out.
            body: The body; or its parts, which are sent as they come, with the client's length if it has declared one.
            target: Raw path and query after the upstream's URL, for plain HTTP.
            owner: Who sends it; an upstream over HTTP does not learn it.
            call: The call that gets the gateway's credential; None to forward the client's own one.

        Raises:
            LendingError: It needs a person's account, and there is none now.
            UpstreamError: No answer came, or one that has the credential in it.
        """
        assert self._session is not None
        kept = _kept(list(headers), keeps_credential=call is None, streams=not isinstance(body, bytes))
        address = URL(self.base + target, encoded=True)
        own = {} if call is None else await self._credential.headers(self._session, call)
        leaks = self._credential.leaks(own)
        try:
            async with asyncio.timeout(self._terms.timeout_s) as limit:
                answer = await self._session.request(
                    method,
                    address,
                    data=(body or None) if isinstance(body, bytes) else _in_time(body, limit, self._terms.timeout_s),
                    headers={**kept, **own},
                    allow_redirects=False,
                    middlewares=(self._once,),
                )
        except aiohttp.ClientConnectorError as error:  # its text has host, port and cause, and nothing of the request
            raise UpstreamError(f"upstream {self.name} cannot be reached", sent=False, why=str(error)) from None
        except TimeoutError:
            raise UpstreamError(f"upstream {self.name} did not answer in time", sent=True, timed_out=True) from None
        except aiohttp.ClientError as error:
            raise UpstreamError(f"upstream {self.name}: {type(error).__name__}", sent=True) from None
        try:
            if call is not None and answer.status in (401, 403):
                self._credential.refused(answer.status, own, call)
            self._check(answer, lent=call is not None)
            yield leaks.checked(answer)
        except aiohttp.ClientError as error:
            raise UpstreamError(f"upstream {self.name}: {type(error).__name__}", sent=True) from None
        finally:
            answer.close()  # a connection whose answer was read to its end is in the pool again already

    def _check(self, answer: aiohttp.ClientResponse, *, lent: bool) -> None:
        """Require an answer that a client may have.

        Raises:
            UpstreamError: It is about the gateway's credential, or one that a server cannot write.
        """
        if answer.status in (401, 403, 407) and lent:
            # A client that gets it would ask for a credential of the upstream.
            raise UpstreamError(f"upstream {self.name} refused the gateway ({answer.status})", sent=True)
        if not 200 <= answer.status <= 599:  # after 101, the upstream would write the answers of later requests
            raise UpstreamError(f"upstream {self.name} answered with status {answer.status}", sent=True)
        if len(answer.headers.getall("content-type", ())) > 1:  # a client could read a list as a stream
            raise UpstreamError(f"upstream {self.name} answered with several content types", sent=True)

    async def end_work(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        note: bytes,
        owner: str,  # noqa: ARG002 - see StdioUpstream
        *,
        call: LiveCall | None,
    ) -> None:
        """Notify the upstream that the gateway has ended a call.

        Args:
            headers: Of the call.
            note: The notification; empty if the end of the call's connection does.
            owner: As in ``send``.
            call: As in ``send``.
        """
        if note:
            with contextlib.suppress(UpstreamError):
                async with self.send("POST", headers, note, call=call) as answer:
                    await read_whole(answer, self._terms, self.name)

    def __repr__(self) -> str:
        return f"<Forwarder to {self.name}>"


def _credential_of(name: str, terms: CredentialTerms | None, folder: Path) -> Credential:
    if terms is None or terms.oauth is None:
        return Credential(name, terms, folder)
    return ClientCredential(name, terms, folder)


async def read_whole(answer: UpstreamAnswer, terms: UpstreamTerms, name: str) -> bytes:
    """Return the whole body of an answer.

    Args:
        answer: The answer.
        terms: The upstream's table.
        name: The upstream's name, for errors.

    Raises:
        UpstreamError: It is longer, or takes longer, than the table allows.
    """
    try:
        async with asyncio.timeout(terms.timeout_s):
            return await bounded_body.read_stream(answer.content.iter_any(), terms.max_answer)
    except bounded_body.BodyTooLongError:
        raise UpstreamError(f"upstream {name} answered more than {terms.max_answer} bytes", sent=True) from None
    except TimeoutError:
        raise UpstreamError(f"upstream {name} did not go on in time", sent=True, timed_out=True) from None


async def _in_time(parts: AsyncIterator[bytes], limit: asyncio.Timeout, wait_s: float) -> AsyncIterator[bytes]:
    """Yield the parts of a body; the time until the answer begins is counted from the last one."""
    async for part in parts:
        with contextlib.suppress(RuntimeError):  # the answer has begun before
            limit.reschedule(asyncio.get_running_loop().time() + wait_s)
        yield part


def _kept(headers: list[tuple[bytes, bytes]], *, keeps_credential: bool, streams: bool) -> dict[str, str]:
    """Return the headers of a client that are forwarded; with its length for a body that is sent as it comes."""
    ended = _nominated(headers)
    kept = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers
        if (_is_forwarded(lower := name.lower()) or (keeps_credential and _is_own_credential(lower, value)))
        and lower not in ended
    }
    hand_on(kept)
    if streams and (lengths := [value for name, value in headers if name == b"content-length"]):
        kept["content-length"] = lengths[0].decode("latin-1")
    return kept


def _is_forwarded(name: bytes) -> bool:
    # WSGI and CGI write `x_key` and `x-key` as one variable, so an underscore would bring back what is left out.
    return b"_" not in name and name not in _NOT_FORWARDED and not name.startswith((b"x-forwarded-", b"x-arx-"))


def _is_own_credential(name: bytes, value: bytes) -> bool:
    """Return whether a header is a client's own credential for the upstream, and no token that was made for ARx."""
    return name in (b"authorization", b"cookie") and not is_token(value) and not has_own_jwt(value)


def _nominated(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Return the headers that `Connection` names, which are of one connection too.  RFC 9110 7.6.1."""
    return {
        each.strip().lower() for name, value in headers if name.lower() == b"connection" for each in value.split(b",")
    }


def answer_headers(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of an answer that a client may have: of this answer alone, which caches keep for no other one.

    Args:
        raw: The answer's headers.
    """
    several = list(raw)
    ended, kept, caching = _nominated(several), list[tuple[bytes, bytes]](), b""
    for name, value in several:
        lower = name.lower()
        if lower == b"cache-control":
            caching += b"," + value
        elif not (lower in _NOT_ANSWERED or lower in ended or lower.startswith(_NOT_BEGUN) or lower.endswith(_CDN)):
            kept.append((lower, value))
    return [*kept, (b"cache-control", _private(caching)), (b"vary", b"Authorization")]


@functools.lru_cache(256)  # an upstream says the same of most answers
def _private(caching: bytes) -> bytes:
    """Return ``Cache-Control`` of what was decided for one caller.  RFC 9111 3.5, 5.2.2.

    Args:
        caching: The upstream's; empty if it has none.
    """
    directives = [each.strip(b" \t") for each in _DIRECTIVE.findall(caching)]
    kept = [each for each in directives if each and not _SHARED.fullmatch(each)]
    # Without any, a cache of the client's own asks again, and the next call is decided on.
    return b", ".join([b"private", *(kept or [b"no-cache"])])
