# SPDX-License-Identifier: Apache-2.0
"""Check what a stock OAuth client finds from a URL alone.  CONTROL 5.5, 5.11, RFC 8414, 9449, 9728.

The checks send no credential, follow no redirect, and stop at the first part without which the next cannot be found.
"""

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from arx_caps.cli.commands.doctor.check import Check
from arx_caps.credentials.access_token import AHEAD_S, ALGORITHMS
from arx_caps.credentials.jose import CLIENT_ALGORITHMS
from arx_caps.http.client import no_answer, open_client
from arx_verifier.addresses import is_loopback
from arx_verifier.enforcement import bounded_body
from arx_verifier.errors import SettingsError

TIMEOUT_S: Final = 5.0
LONGEST: Final = 256 * 1024  # of an answer, bytes
RESOURCE: Final = "/.well-known/oauth-protected-resource"
SERVER: Final = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
ORIGIN: Final = "https://page.example"  # of a client that is a page in a browser
_ALLOWED: Final = "access-control-allow-origin"
_MEND: Final = 'give the upstream a `resource` in the gateway\'s file, and route "/.well-known" to the gateway'
_PAGES: Final = (
    "if pages are to connect: let the proxy pass OPTIONS and the headers Access-Control-… on; where gateway.toml has "
    "`origins`, name theirs"
)
_KEPT: Final = ("date", "www-authenticate", _ALLOWED)
_METADATA: Final = re.compile(r'(?i)^(?:bearer|dpop) .*\bresource_metadata="([^"]+)"')


class _NoAnswerError(Exception):
    """A server did not answer as expected; the text says how."""


def check_oauth(url: str) -> Iterator[Check]:
    """Check a resource and its authorization server, as a client finds them.

    Args:
        url: The URL that a client is given.
    """
    yield _private("address", url)
    answer = None
    try:
        answer = _get(url)
        yield check_clock("clock", url, answer)
        metadata_url, challenge = _challenge(answer)
        yield challenge
        resource = _object(metadata_url or _well_known(url, RESOURCE))
    except _NoAnswerError as error:
        mend = _MEND if answer is not None else "start what is at this address, or correct the URL"
        yield Check("resource", False, str(error), mend)
        return
    yield _resource(url, resource)
    yield _scopes(resource)
    servers = resource.get("authorization_servers")
    if not isinstance(servers, list) or not servers or not isinstance(servers[0], str):
        yield Check("issuer", False, "the metadata names no authorization server", "put an ARx gateway at this address")
        return
    yield _private("issuer's address", servers[0])
    yield from _server(servers[0], {"a 401": answer}, resource)


def _server(issuer: str, answers: dict[str, httpx.Response], resource: dict[str, Any]) -> Iterator[Check]:
    found, missing = {}, []
    for url in _server_urls(issuer):
        try:
            answers["the metadata"] = answer = _get(url)
            found[url] = _decoded(url, _require_ok(url, answer))
        except _NoAnswerError as error:
            missing.append(str(error))
    wrong = {url: said for url, metadata in found.items() if (said := metadata.get("issuer")) != issuer}
    for url, said in wrong.items():
        text = f"{url} has the issuer {said!r:.200}, and the resource names {issuer!r:.200}"
        yield Check("issuer", False, text, "set `issuer` in realm.toml to the URL that clients use, byte for byte")
    if not found:
        yield Check("issuer", False, "; ".join(missing), "make the mint's metadata reachable for clients")
        return
    if missing and not wrong:
        # Clients try one name after another; a few know one alone.
        yield Check("issuer", None, "; ".join(missing), "serve the metadata under each name of RFC 8414 5")
    elif not wrong:
        yield Check("issuer", True, f"{issuer}, under {'both names' if len(found) == len(SERVER) else 'all names'}")
    metadata = next(iter(found.values()))
    yield _endpoints(metadata)
    yield _login(metadata)
    yield _registration(metadata)
    yield _cross_origin(answers, metadata)
    yield _proofs(metadata, resource)
    yield from _keys(metadata)


def _server_urls(issuer: str) -> list[str]:
    # RFC 8414 3.1 and 5: with a path, OpenID Connect appends its name to the issuer.
    urls = [_well_known(issuer, path) for path in SERVER]
    return [*urls, issuer.rstrip("/") + SERVER[1]] if urlsplit(issuer).path.rstrip("/") else urls


def _endpoints(metadata: dict[str, Any]) -> Check:
    names = [name for name in metadata if name.endswith("_endpoint") or name == "jwks_uri"]
    for name in names:
        checked = _private(name, str(metadata[name]))
        if not checked.ok:
            return Check("endpoints", False, f"{name}: {checked.found}", checked.mend)
    if "token_endpoint" not in metadata:
        return Check("endpoints", False, "no token_endpoint", "put a mint of this version at the issuer's address")
    if "authorization_endpoint" not in metadata or "response_types_supported" not in metadata:
        found = "no authorization_endpoint or response_types_supported: the MCP SDKs refuse the metadata"
        return Check("endpoints", False, found, "put a mint of this version at the issuer's address")
    return Check("endpoints", True, ", ".join(sorted(names)))


def _login(metadata: dict[str, Any]) -> Check:
    if "code" not in _listed(metadata, "response_types_supported"):
        found = "no response type `code`: a client with a browser cannot log in"
        return Check("login", None, found, "set `login_issuer` and its companions in realm.toml")
    if "S256" not in _listed(metadata, "code_challenge_methods_supported"):
        return Check("login", False, "PKCE with S256 is not announced", "put a mint of this version there")
    if metadata.get("authorization_response_iss_parameter_supported") is not True:
        found = "answers do not name their issuer (RFC 9207): a client of two servers can mix them up"
        return Check("login", None, found, "put a mint of this version there")
    return Check("login", True, "code, S256, iss")


def _registration(metadata: dict[str, Any]) -> Check:
    ways = {
        "client_id_metadata_document_supported": "client id metadata documents",
        "registration_endpoint": "dynamic registration",
    }
    found = [text for name, text in ways.items() if metadata.get(name)]
    if found:
        return Check("registration", True, ", ".join(found))
    text = "none: a client needs the id of one that an operator has registered"
    return Check("registration", None, text, "run `arx client add`, and give the client its id")


def _cross_origin(answers: dict[str, httpx.Response], metadata: dict[str, Any]) -> Check:
    closed = [name for name, answer in answers.items() if answer.headers.get(_ALLOWED) not in ("*", ORIGIN)]
    url = str(metadata.get("token_endpoint"))
    try:
        if _get(url, "OPTIONS").headers.get(_ALLOWED) not in ("*", ORIGIN):
            closed.append("the token endpoint")
    except _NoAnswerError:
        closed.append("the token endpoint")
    if closed:
        found = f"no {_ALLOWED} in {', '.join(closed)}: a client that is a page in a browser cannot connect"
        return Check("pages", None, found, _PAGES)
    return Check("pages", True, "pages of every origin can connect")


def _scopes(metadata: dict[str, Any]) -> Check:
    scopes = _listed(metadata, "scopes_supported")
    if scopes:
        return Check("scopes", True, ", ".join(map(str, scopes)))
    found = "no scopes_supported: stock clients ask for no scope"
    return Check("scopes", None, found, "see that the policy has a task of this service that access tokens may have")


def _listed(metadata: dict[str, Any], name: str) -> list[Any]:
    value = metadata.get(name)
    return value if isinstance(value, list) else []


def _proofs(metadata: dict[str, Any], resource: dict[str, Any]) -> Check:
    offered = [name for name in CLIENT_ALGORITHMS if name in (metadata.get("dpop_signing_alg_values_supported") or ())]
    if not offered:
        return Check(
            "proofs", False, "the mint announces no DPoP", "put a mint of this version at the issuer's address"
        )
    # Without this line an operator of a client that knows no DPoP reads `invalid_token` alone.
    if resource.get("dpop_bound_access_tokens_required") is True:
        return Check("proofs", True, f"DPoP with {', '.join(offered)}; each access token must be bound to a key")
    return Check("proofs", True, f"DPoP with {', '.join(offered)}; a client may do without")


def _keys(metadata: dict[str, Any]) -> Iterator[Check]:
    url = str(metadata.get("jwks_uri"))
    try:
        answer = _get(url)
        keys = _decoded(url, answer).get("keys")
    except _NoAnswerError as error:
        yield Check("keys", False, str(error), "make the mint's /oauth/jwks reachable")
        return
    if not isinstance(keys, list):
        yield Check("keys", False, f"{url} is no JWK set", "put a mint of this version at the issuer's address")
        return
    signing = [key for key in keys if isinstance(key, dict) and key.get("alg") in ALGORITHMS]
    if signing:
        yield Check("keys", True, f"{len(signing)} for access tokens: {', '.join(str(key['alg']) for key in signing)}")
    else:
        yield Check("keys", None, "none yet", "the mint makes one for the first access token: get one, and check again")
    yield check_clock("issuer's clock", url, answer)


def _challenge(answer: httpx.Response) -> tuple[str | None, Check]:
    """Return the URL of the resource's metadata, and what is to be said of the challenge."""
    header = answer.headers.get("www-authenticate", "")
    matched = _METADATA.search(header)
    if answer.status_code == 401 and matched:
        return matched[1], Check("challenge", True, "401 names the metadata of the resource")
    found = f"{answer.status_code}, expected 401 with `resource_metadata` in WWW-Authenticate"
    mend = "give the upstream a `resource` in the gateway's file, and let the proxy pass 401 and WWW-Authenticate on"
    if answer.status_code == 404:
        mend = "correct the path: it begins with the name of an upstream of the gateway"
    return None, Check("challenge", False, found, mend)


def _resource(url: str, metadata: dict[str, Any]) -> Check:
    named = metadata.get("resource")
    if named == url:
        return Check("resource", True, url)
    mend = "set the upstream's `resource` to the URL that clients are given, or give clients that URL"
    return Check("resource", False, f"the metadata has {named!r:.200}, not {url!r:.200} byte for byte", mend)


def _private(name: str, url: str) -> Check:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        return Check(name, True, url)
    if not parts.netloc:
        return Check(name, False, f"{url} is no URL", "write it with https:// or, on this machine, http://")
    return Check(name, False, f"{url} is neither https nor of this machine", "end TLS before it, and use that URL")


def check_clock(name: str, url: str, answer: httpx.Response) -> Check:
    """Check a server's clock.

    Args:
        name: The name of the check.
        url: The server's URL.
        answer: An answer of it, of now.
    """
    try:
        ahead_s = parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
    except (KeyError, ValueError):
        return Check(name, None, f"{url} has no Date", "let the proxy pass Date on")
    # Date has whole seconds, and the answer took its time.
    if abs(ahead_s) > AHEAD_S:
        found = f"{url} is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine"
        return Check(name, False, found, "set the clocks by NTP")
    return Check(name, True, f"within {AHEAD_S} s of this machine's")


def _well_known(url: str, path: str) -> str:
    # RFC 8414 3.1, RFC 9728 3.1: between the host and the path.
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{path}{parts.path.rstrip('/')}"


def _object(url: str) -> dict[str, Any]:
    return _decoded(url, _require_ok(url, _get(url)))


def _require_ok(url: str, answer: httpx.Response) -> httpx.Response:
    if answer.status_code != 200:
        raise _NoAnswerError(f"{url} answers {answer.status_code}")
    return answer


def _decoded(url: str, answer: httpx.Response) -> dict[str, Any]:
    try:
        return msgspec.json.decode(answer.content, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _NoAnswerError(f"{url} is no JSON object") from None


def _get(url: str, method: str = "GET") -> httpx.Response:
    """Return an answer, whole; the request is as of a page in a browser, or where no page may ask of another client.

    Raises:
        _NoAnswerError: There is none, or it is too long.
    """
    page = {"Origin": ORIGIN}
    answer = _asked(url, method, page | ({"Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {}))
    return _asked(url, method, {}) if (method, answer.status_code) == ("GET", 403) else answer


def _asked(url: str, method: str, headers: dict[str, str]) -> httpx.Response:
    try:
        with open_client(url, timeout=TIMEOUT_S) as client, client.stream(method, url, headers=headers) as answer:
            content = bounded_body.read_parts(answer.iter_bytes(), LONGEST)
            return httpx.Response(answer.status_code, headers=_plain_headers(answer), content=content)
    except bounded_body.BodyTooLongError:
        raise _NoAnswerError(f"{url} answers more than {LONGEST} bytes") from None
    except (httpx.HTTPError, httpx.InvalidURL, SettingsError) as error:
        raise _NoAnswerError(f"{url} did not answer ({no_answer(error, url)})") from None


def _plain_headers(answer: httpx.Response) -> dict[str, str]:
    # Not the encoding: the content is decoded.
    return {name: answer.headers[name] for name in _KEPT if name in answer.headers}
