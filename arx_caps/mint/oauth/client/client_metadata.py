# SPDX-License-Identifier: Apache-2.0
"""Metadata of clients that no operator has registered.  CONTROL 5.10, 5.13.

Sources: RFC 7591 2, draft-ietf-oauth-client-id-metadata-document-03 4.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from arx_caps.mint.oauth.client.redirects import MAX_CHARS, check_redirect
from arx_caps.mint.oauth.errors import OAuthError
from arx_verifier.errors import ArxError, RequestError
from arx_verifier.request import read_json_object

GRANTS: Final = ("authorization_code", "refresh_token")
RESPONSES: Final = ("code",)
METHOD: Final = "none"  # of authentication
MAX_REDIRECTS: Final = 8
MAX_NAME_CHARS: Final = 100


class ClientMetadata(msgspec.Struct, frozen=True):
    """What a client writes of itself (RFC 7591 2); the mint ignores all other members, ``scope`` among them."""

    redirect_uris: Annotated[
        tuple[Annotated[str, Meta(max_length=MAX_CHARS)], ...], Meta(min_length=1, max_length=MAX_REDIRECTS)
    ]
    client_name: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] | None = None
    grant_types: tuple[str, ...] | None = None
    response_types: tuple[str, ...] | None = None
    token_endpoint_auth_method: str | None = None


def read_client_metadata(raw: bytes) -> tuple[ClientMetadata, dict[str, Any]]:
    """Return what a client writes of itself, and the whole object.

    Args:
        raw: The JSON text.

    Raises:
        OAuthError: ``invalid_client_metadata`` or ``invalid_redirect_uri``.
    """
    try:
        whole = read_json_object(raw)
        metadata = msgspec.convert(whole, ClientMetadata)
    except (ArxError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise invalid_metadata(str(error)) from None
    if "authorization_code" not in (metadata.grant_types or GRANTS):
        raise invalid_metadata("grant_types: expected authorization_code among them: a person must consent")
    if "code" not in (metadata.response_types or RESPONSES):
        raise invalid_metadata("response_types: expected code among them")
    try:
        for uri in metadata.redirect_uris:
            check_redirect(uri)
    except RequestError as error:
        raise OAuthError("invalid_redirect_uri", str(error)) from None
    return metadata, whole


def read_client_document(url: str, raw: bytes) -> tuple[ClientMetadata, list[Any] | None]:
    """Return the metadata in a client's document, and the client's keys if it has any.

    Args:
        url: Its URL, the client's id.
        raw: Its bytes.

    Raises:
        OAuthError: As ``read_client_metadata``; or it is another client's, or asks for a secret.
    """
    metadata, whole = read_client_metadata(raw)
    # Byte for byte: else one document could speak for two clients.
    if whole.get("client_id") != url:
        raise invalid_metadata("client_id: expected the URL of the document")
    if {"client_secret", "client_secret_expires_at"} & whole.keys():
        raise invalid_metadata("expected no client_secret: everyone can read the document")
    method, keys = metadata.token_endpoint_auth_method, whole.get("jwks")
    if method in (None, METHOD):
        return metadata, None
    if method != "private_key_jwt":
        raise invalid_metadata("token_endpoint_auth_method: expected none or private_key_jwt")
    if not isinstance(keys, dict) or not isinstance(keys.get("keys"), list):
        raise invalid_metadata("jwks: expected the client's keys in the document itself, and no jwks_uri")
    return metadata, keys["keys"]


def invalid_metadata(text: str) -> OAuthError:
    """Return the error of metadata that cannot be used."""
    return OAuthError("invalid_client_metadata", text)
