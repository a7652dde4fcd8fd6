# SPDX-License-Identifier: Apache-2.0
"""The metadata of the authorization server.  RFC 8414, RFC 9449 5.1."""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from arx_caps.credentials.jose import CLIENT_ALGORITHMS
from arx_caps.mint.oauth.client.client_proofs import TOKEN
from arx_caps.mint.oauth.jwt_bearer import ID_JAG_PROFILE, JWT_BEARER
from arx_caps.mint.oauth.task_grant import DETAILS_TYPE
from arx_caps.mint.oauth.token_exchange import TOKEN_EXCHANGE
from arx_caps.settings.realm import Realm

AUTHORIZE: Final = "/oauth/authorize"
JWKS: Final = "/oauth/jwks"
INTROSPECT: Final = "/oauth/introspect"
REVOKE: Final = "/oauth/revoke"
REGISTER: Final = "/oauth/register"
CROSS_ORIGIN: Final = (TOKEN, REVOKE, JWKS, REGISTER)  # which programs in browsers call; no cookie counts there
METHODS: Final = ("client_secret_basic", "client_secret_post", "private_key_jwt")


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What the authorization server offers (RFC 8414 2)."""

    issuer: str
    authorization_endpoint: str
    code_challenge_methods_supported: tuple[str, ...] | UnsetType = UNSET
    authorization_response_iss_parameter_supported: bool | UnsetType = UNSET
    jwks_uri: str
    token_endpoint: str
    introspection_endpoint: str
    revocation_endpoint: str
    registration_endpoint: str | UnsetType = UNSET
    client_id_metadata_document_supported: bool | UnsetType = UNSET
    response_types_supported: tuple[str, ...]
    grant_types_supported: tuple[str, ...]
    authorization_grant_profiles_supported: tuple[str, ...]
    token_endpoint_auth_methods_supported: tuple[str, ...]
    token_endpoint_auth_signing_alg_values_supported: tuple[str, ...]
    introspection_endpoint_auth_methods_supported: tuple[str, ...]
    introspection_endpoint_auth_signing_alg_values_supported: tuple[str, ...]
    revocation_endpoint_auth_methods_supported: tuple[str, ...]
    revocation_endpoint_auth_signing_alg_values_supported: tuple[str, ...]
    authorization_details_types_supported: tuple[str, ...]
    dpop_signing_alg_values_supported: tuple[str, ...]


def metadata_of(realm: Realm) -> Metadata:
    """Return the metadata.

    Args:
        realm: The realm: if people can log in, there are authorization codes.
    """
    issuer, login = realm.issuer, realm.login is not None
    registers = realm.clients is not None and realm.clients.register
    return Metadata(
        issuer=issuer,
        # Always, since stock clients refuse metadata without it; without a login it answers with an error page.
        authorization_endpoint=issuer + AUTHORIZE,
        code_challenge_methods_supported=("S256",) if login else UNSET,
        authorization_response_iss_parameter_supported=True if login else UNSET,
        jwks_uri=issuer + JWKS,
        token_endpoint=issuer + TOKEN,
        introspection_endpoint=issuer + INTROSPECT,
        revocation_endpoint=issuer + REVOKE,
        registration_endpoint=issuer + REGISTER if registers else UNSET,
        client_id_metadata_document_supported=True if realm.clients is not None and realm.clients.hosts else UNSET,
        response_types_supported=("code",) if login else (),
        grant_types_supported=(
            *(("authorization_code", "refresh_token") if login else ()),
            "client_credentials",
            JWT_BEARER,
            TOKEN_EXCHANGE,
        ),
        authorization_grant_profiles_supported=(ID_JAG_PROFILE,),
        token_endpoint_auth_methods_supported=(*METHODS, *(("none",) if login else ())),
        token_endpoint_auth_signing_alg_values_supported=CLIENT_ALGORITHMS,
        introspection_endpoint_auth_methods_supported=METHODS,
        introspection_endpoint_auth_signing_alg_values_supported=CLIENT_ALGORITHMS,
        revocation_endpoint_auth_methods_supported=(*METHODS, *(("none",) if login else ())),
        revocation_endpoint_auth_signing_alg_values_supported=CLIENT_ALGORITHMS,
        authorization_details_types_supported=(DETAILS_TYPE,),
        dpop_signing_alg_values_supported=CLIENT_ALGORITHMS,
    )
