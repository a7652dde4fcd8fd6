# SPDX-License-Identifier: Apache-2.0
"""What OAuth clients write of themselves, and their redirect URIs.  CONTROL 5.8, 5.10, 5.13."""

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

from arx_caps.mint.oauth.client.client_metadata import read_client_document, read_client_metadata
from arx_caps.mint.oauth.client.redirects import answer_url, check_redirect, fits_redirect
from arx_caps.mint.oauth.errors import OAuthError, plain_description
from arx_verifier.errors import RequestError

MAX_BYTES = 4_096
URL = "https://client.example/metadata.json"


def check(data: bytes) -> None:
    """Read metadata and a document, and hold each redirect URI against what may be registered."""
    for read in (read_client_metadata, lambda raw: read_client_document(URL, raw)):
        try:
            metadata, _ = read(data)
        except OAuthError as error:
            refusal = error
        else:
            for uri in metadata.redirect_uris:
                _check_uri(uri)
            continue
        # RFC 6749 5.2: what a description may have.
        assert plain_description(str(refusal)).isascii()
    _check_uri(data.decode("latin-1"))


def _check_uri(uri: str) -> None:
    try:
        registered = check_redirect(uri)
    except RequestError:
        return
    assert registered == uri
    assert fits_redirect(uri, [uri])
    before, answer = urlsplit(uri), urlsplit(answer_url(uri, {"code": "c&d", "state": None}))
    assert (before.scheme, before.netloc, before.path) == (answer.scheme, answer.netloc, answer.path)
    assert not answer.fragment
    assert before.scheme != "http" or before.hostname in ("127.0.0.1", "::1", "localhost")


def seeds() -> Iterator[bytes]:
    """Return metadata and URIs as clients write them."""
    uris = (
        "https://app.example/cb?x=1",
        "http://127.0.0.1:7000/cb",
        "http://[::1]/cb",
        "http://localhost:80/",
        "com.example.app:/cb",
        "https://user@app.example/cb",
        "https://app.example/cb#f",
    )
    for uri in uris:
        yield uri.encode()
        yield json.dumps({"redirect_uris": [uri], "client_name": "App", "grant_types": ["authorization_code"]}).encode()
    document = {"client_id": URL, "redirect_uris": [uris[0]], "token_endpoint_auth_method": "private_key_jwt"}
    yield json.dumps(document | {"jwks": {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]}}).encode()
    yield json.dumps(document | {"token_endpoint_auth_method": "none", "response_types": ["code"]}).encode()
