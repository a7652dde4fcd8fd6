# SPDX-License-Identifier: Apache-2.0
"""Routes of agents and services: who there is.  SPEC 16."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from arx_caps.mint.endpoint import Answer, Asked, Body, Endpoint
from arx_caps.mint.events import Event
from arx_verifier import codec, names
from arx_verifier.errors import RequestError
from arx_verifier.store_address import without_login

Short = Annotated[str, Meta(max_length=200)]
Name = Annotated[str, Meta(max_length=64)]


class ServiceBody(Body, frozen=True):
    """A tool service to enrol."""

    audience: str


class ServiceFile(Answer, frozen=True):
    """A service file, a secret.  SPEC 15."""

    v: Literal[1]
    realm: str
    audience: str
    max_ttl_ms: int
    keys: dict[str, str]
    store: str
    journal: str


def enrol_service(asked: Asked) -> ServiceFile:
    """Enrol a tool service, or find it, and return its service file, a secret."""
    mint, audience, by = asked.mint, asked.body.audience, asked.by.by
    if not names.is_audience(audience):
        raise RequestError("audience is [a-z0-9][a-z0-9._-]{0,63} and does not begin with arx")
    n = mint.state.enrol_service(audience, by, Event.of("service.enrolled", by, audience=audience))
    keys = {kid: codec.text_of(key) for kid, key in mint.roots.audience_keys(audience, n).items()}
    return ServiceFile(
        v=1,
        realm=mint.realm.name,
        audience=audience,
        max_ttl_ms=mint.realm.max_ttl_ms,
        keys=keys,
        # The mint's own login may kill and lift: a service follows with one of its own, or none.
        store=without_login(mint.store_url),
        journal=str(mint.realm.journals_dir / audience),
    )


ENDPOINTS: Final = (Endpoint("POST", "/v1/services", "arx.services.write", enrol_service, ServiceBody, status=201),)
