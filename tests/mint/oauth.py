# SPDX-License-Identifier: Apache-2.0
"""OAuth clients of a mint in this process, as their libraries call it."""

import base64
import json
import secrets
import warnings
from typing import Any
from urllib.parse import quote

import httpx2
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey

from arx_caps.mint.oauth.client.clients import ASSERTION
from tests.mint.harness import AGENT, ISSUER, Harness, now_ms

RESOURCE = "http://127.0.0.1:9001/orders"
PARAMS = '[{"type":"arx_task","params":{"order_id":"o-1"}}]'


class Client:
    """A registered client.

    Args:
        harness: The realm.
        about: Members of the registration.
    """

    id: str
    secret: str

    def __init__(self, harness: Harness, **about: Any) -> None:
        self.harness = harness
        body = {"agent": AGENT, "scopes": ["lookup"]} | about
        answer = harness.operator().call("POST", "/v1/clients", body)
        assert answer.status_code == 201, answer.text
        self.id, self.secret = answer.json()["client"]["id"], answer.json().get("secret", "")

    def post(self, path: str, headers: dict[str, str] | None = None, **form: str) -> httpx2.Response:
        """Send a form; without a credential in it, the header has the secret."""
        if headers is None and not {"client_secret", "client_assertion"} & form.keys():
            text = f"{quote(self.id)}:{quote(self.secret)}".encode()
            headers = {"Authorization": f"Basic {base64.b64encode(text).decode()}"}
        return self.harness.client.post(path, data=form, headers=headers or {})

    def ask(self, **form: str) -> httpx2.Response:
        """Ask for an access token."""
        asked = {"grant_type": "client_credentials", "resource": RESOURCE, "authorization_details": PARAMS} | form
        return self.post("/oauth/token", **{name: value for name, value in asked.items() if value})

    def token(self, **form: str) -> str:
        """Return an access token."""
        answer = self.ask(**form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def active(self, token: str) -> bool:
        """Return whether a token is active."""
        answer = self.post("/oauth/introspect", token=token)
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["active"])


def assertion(
    client: str, key: ECKey | OKPKey, algorithm: str, header: dict[str, Any] | None = None, **claims: Any
) -> dict[str, str]:
    """Return the members of a form in which a client proves its key."""
    now = now_ms() // 1000
    whole = {"iss": client, "sub": client, "aud": ISSUER, "exp": now + 60, "iat": now, "jti": secrets.token_hex(8)}
    payload = json.dumps({name: value for name, value in (whole | claims).items() if value is not None})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at the older name EdDSA, which clients use
        whole_header = {"alg": algorithm, "typ": "JWT"} | (header or {})
        text = jws.serialize_compact(whole_header, payload, key, algorithms=["ES256", "EdDSA", "Ed25519", "HS256"])
    return {"client_assertion": text, "client_assertion_type": ASSERTION}
