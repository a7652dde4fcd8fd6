# SPDX-License-Identifier: Apache-2.0
"""A real issuer for tests: keys of every kind, tokens signed by another library, and a server that shows the keys."""

import base64
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

MINT = "https://mint.acme.example"  # what tokens for this mint are for
IDP = "https://idp.example"
KEYS: dict[str, Any] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}
KID_OF = {"RS256": "rsa", "PS256": "rsa", "ES256": "ec", "EdDSA": "ed"}
_TO_JWK = {"rsa": RSAAlgorithm, "ec": ECAlgorithm, "ed": OKPAlgorithm}


def public_jwk(kid: str, /, **changes: Any) -> dict[str, Any]:
    jwk: dict[str, Any] = _TO_JWK[kid].to_jwk(KEYS[kid].public_key(), as_dict=True)  # type: ignore[attr-defined]
    return {**jwk, "kid": kid, **changes}


def jwks(*kids: str) -> bytes:
    return json.dumps({"keys": [public_jwk(kid) for kid in kids or KEYS]}).encode()


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(now: int, alg: str = "ES256", header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token for the mint that lives five minutes from now (ms); a change to None leaves a claim out."""
    at = now // 1000
    claims = {"iss": IDP, "sub": "ann", "aud": MINT, "iat": at, "exp": at + 300, **changes}
    claims = {name: value for name, value in claims.items() if value is not None}
    kid = KID_OF[alg]
    return pyjwt.encode(claims, KEYS[kid], algorithm=alg, headers={"kid": kid, **(header or {})})


def with_header(signed: str, header: Any, signature: str | None = None) -> str:
    """The same claims under another header, its signature kept or replaced."""
    _, claims, own = signed.split(".")
    return f"{segment(header)}.{claims}.{own if signature is None else signature}"


def with_hmac(signed: str, secret: bytes, kid: str) -> str:
    """The same claims under an HMAC."""
    head = segment({"alg": "HS256", "typ": "JWT", "kid": kid}) + "." + signed.split(".")[1]
    return f"{head}.{segment(hmac.digest(secret, head.encode(), sha256))}"


class KeyServer:
    """Shows a key set over HTTP.

    Attributes:
        body: What it answers.
        status: With which status.
        asked: How often it was asked.
        open: Cleared, it lets each request wait.
    """

    def __init__(self) -> None:
        self.body, self.status, self.asked = jwks(), 200, 0
        self.headers: dict[str, str] = {}
        self.open = threading.Event()
        self.open.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.open.wait(30)
                self.send_response(outer.status)
                for name, value in {"Content-Length": str(len(outer.body)), **outer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/keys"


@contextmanager
def key_server() -> Iterator[KeyServer]:
    made = KeyServer()
    with served(made.server):
        yield made


@contextmanager
def served(server: ThreadingHTTPServer) -> Iterator[None]:
    """Serve in a thread, and stop at the end."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
