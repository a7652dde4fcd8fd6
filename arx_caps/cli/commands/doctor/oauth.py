# SPDX-License-Identifier: Apache-2.0
"""Check what a stock OAuth client finds from a URL alone.  CONTROL 5.5, RFC 8414, RFC 9728.

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

from arx_caps.access_token import AHEAD_S, ALGORITHMS
from arx_caps.cli.commands.doctor.check import Check
from arx_caps.http_client import no_answer, open_client
from arx_caps.server_process import is_loopback
from arx_verifier.errors import SettingsError

TIMEOUT_S: Final = 5.0
LONGEST: Final = 256 * 1024  # of an answer, bytes
RESOURCE: Final = "/.well-known/oauth-protected-resource"
SERVER: Final = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
_METADATA: Final = re.compile(r'(?i)^bearer .*\bresource_metadata="([^"]+)"')


class _NoAnswerError(Exception):
    """A server did not answer as expected; the text says how."""


def check_oauth(url: str) -> Iterator[Check]:
    """Check a resource and its authorization server, as a client finds them.

    Args:
        url: The URL that a client is given.
    """
    yield _private("address", url)
    try:
        answer = _get(url)
        yield _clock("clock", url, answer)
        metadata_url, challenge = _challenge(answer)
        yield challenge
        resource = _object(metadata_url or _well_known(url, RESOURCE))
    except _NoAnswerError as error:
        mend = 'give the upstream a `resource` in the gateway\'s file, and route "/.well-known" to the gateway'
        yield Check("resource", False, str(error), mend)
        return
    yield _resource(url, resource)
    servers = resource.get("authorization_servers")
    if not isinstance(servers, list) or not servers or not isinstance(servers[0], str):
        yield Check("issuer", False, "the metadata names no authorization server", "put an ARx gateway at this address")
        return
    yield _private("issuer's address", servers[0])
    yield from _server(servers[0])


def _server(issuer: str) -> Iterator[Check]:
    found = {}
    for path in SERVER:
        try:
            found[path] = _object(_well_known(issuer, path))
        except _NoAnswerError as error:
            yield Check("issuer", False, str(error), f"make {path} of the mint reachable for clients")
    for path, metadata in found.items():
        if metadata.get("issuer") != issuer:
            said = f"{path} has the issuer {metadata.get('issuer')!r:.200}, and the resource names {issuer!r:.200}"
            yield Check("issuer", False, said, "set `issuer` in realm.toml to the URL that clients use, byte for byte")
    if not found:
        return
    if len(found) == len(SERVER) and all(metadata.get("issuer") == issuer for metadata in found.values()):
        yield Check("issuer", True, f"{issuer}, under both names")
    metadata = next(iter(found.values()))
    yield _endpoints(metadata)
    yield from _keys(metadata)


def _endpoints(metadata: dict[str, Any]) -> Check:
    names = [name for name in metadata if name.endswith("_endpoint") or name == "jwks_uri"]
    for name in names:
        checked = _private(name, str(metadata[name]))
        if not checked.ok:
            return Check("endpoints", False, f"{name}: {checked.found}", checked.mend)
    if "token_endpoint" not in metadata:
        return Check("endpoints", False, "no token_endpoint", "put a mint of this version at the issuer's address")
    if "authorization_endpoint" not in metadata:
        found = "no authorization_endpoint: a client with a browser cannot log in, and the MCP SDKs refuse the metadata"
        return Check("endpoints", None, found, "use a client that reads metadata without it, as RFC 8414 allows")
    if "S256" not in (metadata.get("code_challenge_methods_supported") or ()):
        return Check("endpoints", False, "PKCE with S256 is not announced", "put a mint of this version there")
    return Check("endpoints", True, ", ".join(sorted(names)))


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
    yield _clock("issuer's clock", url, answer)


def _challenge(answer: httpx.Response) -> tuple[str | None, Check]:
    """Return the URL of the resource's metadata, and what is to be said of the challenge."""
    header = answer.headers.get("www-authenticate", "")
    matched = _METADATA.search(header)
    if answer.status_code == 401 and matched:
        return matched[1], Check("challenge", True, "401 names the metadata of the resource")
    found = f"{answer.status_code}, expected 401 with `resource_metadata` in WWW-Authenticate"
    mend = "give the upstream a `resource` in the gateway's file, and let the proxy pass 401 and WWW-Authenticate on"
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
    return Check(name, False, f"{url} is neither https nor of this machine", "end TLS before it, and use that URL")


def _clock(name: str, url: str, answer: httpx.Response) -> Check:
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
    answer = _get(url)
    if answer.status_code != 200:
        raise _NoAnswerError(f"{url} answers {answer.status_code}")
    return _decoded(url, answer)


def _decoded(url: str, answer: httpx.Response) -> dict[str, Any]:
    try:
        return msgspec.json.decode(answer.content, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _NoAnswerError(f"{url} is no JSON object") from None


def _get(url: str) -> httpx.Response:
    """Return an answer, whole.

    Raises:
        _NoAnswerError: There is none, or it is too long.
    """
    try:
        with open_client(url, timeout=TIMEOUT_S) as client, client.stream("GET", url) as answer:
            content = b""
            for part in answer.iter_bytes():
                content += part
                if len(content) > LONGEST:
                    raise _NoAnswerError(f"{url} answers more than {LONGEST} bytes")
            return httpx.Response(answer.status_code, headers=_plain_headers(answer), content=content)
    except (httpx.HTTPError, httpx.InvalidURL, SettingsError) as error:
        raise _NoAnswerError(f"{url} did not answer ({no_answer(error, url)})") from None


def _plain_headers(answer: httpx.Response) -> dict[str, str]:
    # Not the encoding: the content is decoded.
    return {name: answer.headers[name] for name in ("date", "www-authenticate") if name in answer.headers}
