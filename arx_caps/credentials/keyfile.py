# SPDX-License-Identifier: Apache-2.0
"""Ed25519 keys of agents, operators, services, sessions, holders, witnesses, in memory and in files.  CONTROL 1.

A key file is a private JWK with its owner's role and name.  The claims to sign are in ``jose``.  A public key of an
OAuth client may be of P-256.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey

from arx_caps.credentials.whole_files import written_beside
from arx_verifier._platform import O_CLOEXEC, is_open_to_others
from arx_verifier.errors import ArxError, MalformedTokenError, RequestError, SettingsError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire
from arx_verifier.token.holder import HolderKey

# RFC 9864 renamed EdDSA over this curve to Ed25519; the signature is the same, so both names are accepted.  ARx writes
# the older one, because more libraries read it.
_NAMES: Final = {"EdDSA": "Ed25519"}

MAX_KEYS: Final = 4096  # public keys in memory, about 8 MB
_MEMBERS: Final = {"kty", "crv", "x"}

Role = Literal["agent", "operator", "service", "holder", "witness"]


class AlgorithmRegistry(jws.JWSRegistry):
    """joserfc's registry, limited to one algorithm, without its warning at the older name of Ed25519.

    Args:
        algorithm: The algorithm; both names of Ed25519 mean the same.
        max_header_bytes: The longest header that is parsed.
    """

    def __init__(self, algorithm: str, *, max_header_bytes: int = jws.JWSRegistry.max_header_length) -> None:
        super().__init__()
        self._algorithm, self.max_header_length = _NAMES.get(algorithm, algorithm), max_header_bytes

    def get_alg(self, name: str) -> Any:
        if _NAMES.get(name, name) != self._algorithm:
            raise MalformedTokenError(f"wrong algorithm: expected {self._algorithm}, got another")
        return self.algorithms[self._algorithm]


_REGISTRY: Final = AlgorithmRegistry("Ed25519")


class PublicKey:
    """An Ed25519 public key and its RFC 7638 thumbprint.

    Attributes:
        x: The 32 bytes as base64url.
        kid: The thumbprint.
    """

    __slots__ = ("_key", "kid", "x")

    def __init__(self, jwk: Any) -> None:
        """Parse a public JWK.  RFC 8037.

        Raises:
            RequestError: It is another kind of key, malformed, or a private key.
        """
        if not isinstance(jwk, dict) or (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
            raise RequestError("a key is a JWK with kty OKP and crv Ed25519")
        if "d" in jwk:
            # A private key that was sent is known to others: the sender must replace it.
            raise RequestError("this is a private key: send the public half, and make a new key, since this one is out")
        x = jwk.get("x")
        try:
            # Only one spelling is accepted: with two, one key would have two thumbprints.
            good = isinstance(x, str) and len(wire.bytes_of(x)) == 32
            self._key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": str(x) if good else ""})
        except (MalformedTokenError, JoseError, ValueError) as error:
            raise RequestError("the key's x is not 32 bytes of base64url") from error
        self.x = str(x)
        self.kid: str = self._key.thumbprint()

    @property
    def jwk(self) -> dict[str, str]:
        """The public JWK, without further members."""
        return {"crv": "Ed25519", "kty": "OKP", "x": self.x}

    def open(self, token: str) -> bytes:
        """Verify a compact JWS with this key and return its payload.

        Args:
            token: The JWS.

        Raises:
            JoseError: This key did not sign it.
        """
        return bytes(jws.deserialize_compact(token, self._key, registry=_REGISTRY).payload or b"")

    def __repr__(self) -> str:
        return f"<PublicKey {self.kid}>"


@functools.lru_cache(MAX_KEYS)
def _key_of(x: str) -> PublicKey:
    return PublicKey({"kty": "OKP", "crv": "Ed25519", "x": x})


def public_key(jwk: Any) -> PublicKey:
    """Parse a public JWK, as ``PublicKey`` does; keys that come again and again are kept in memory.

    Raises:
        RequestError: It is another kind of key, malformed, or a private key.
    """
    if isinstance(jwk, dict) and jwk.keys() == _MEMBERS and (jwk["kty"], jwk["crv"]) == ("OKP", "Ed25519"):
        x = jwk["x"]
        if isinstance(x, str):
            return _key_of(x)
    return PublicKey(jwk)


class ClientKey:
    """A P-256 public key of an OAuth client, for ES256, and its RFC 7638 thumbprint.

    Attributes:
        kid: The thumbprint.
    """

    __slots__ = ("_key", "kid")

    def __init__(self, x: str, y: str) -> None:
        self._key = ECKey.import_key({"kty": "EC", "crv": "P-256", "x": x, "y": y})
        self.kid: str = self._key.thumbprint()

    def open(self, token: str) -> bytes:
        """Verify a compact JWS with this key and return its payload.

        Args:
            token: The JWS.

        Raises:
            JoseError: This key did not sign it.
        """
        return bytes(jws.deserialize_compact(token, self._key, algorithms=["ES256"]).payload or b"")


_client_key: Final = functools.lru_cache(MAX_KEYS)(ClientKey)


def client_key(jwk: Any) -> PublicKey | ClientKey:
    """Parse the public JWK of an OAuth client's proof: Ed25519, or P-256 for ES256.

    Raises:
        RequestError: It is another kind of key, malformed, or a private key.
    """
    if not isinstance(jwk, dict) or jwk.get("kty") != "EC":
        return public_key(jwk)
    try:
        if jwk["crv"] != "P-256" or "d" in jwk or any(len(wire.bytes_of(jwk[name])) != 32 for name in ("x", "y")):
            raise ValueError(jwk["crv"])
        return _client_key(jwk["x"], jwk["y"])
    except (MalformedTokenError, JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError("a key is the public half of an Ed25519 or P-256 key, as a JWK") from error


class SigningKey:
    """An Ed25519 private key, in memory until a ``KeyFile`` saves it; ``repr`` shows its thumbprint.

    Attributes:
        public: The public half.
    """

    __slots__ = ("__dict__", "_key", "public")

    def __init__(self, key: OKPKey) -> None:
        self._key = key
        self.public = PublicKey(key.as_dict(private=False))

    @classmethod
    def generate(cls) -> Self:
        """Return a new key, for example for one session."""
        return cls(OKPKey.generate_key("Ed25519", private=True))

    @property
    def kid(self) -> str:
        """The RFC 7638 thumbprint."""
        return self.public.kid

    def private_jwk(self) -> dict[str, str]:
        """Return the private JWK, a secret."""
        whole = self._key.as_dict(private=True)
        return {name: str(whole[name]) for name in ("crv", "d", "kty", "x")}

    @functools.cached_property
    def holder(self) -> HolderKey:
        """The same key, for bound tokens.  SPEC 16."""
        return HolderKey(wire.bytes_of(self.private_jwk()["d"]))

    def sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        """Return a compact JWS of ``claims``.

        Args:
            header: The JWS header, without ``alg``.
            claims: The payload, as JSON values.
        """
        payload = json.dumps(claims, separators=(",", ":"))
        return jws.serialize_compact({**header, "alg": "EdDSA"}, payload, self._key, registry=_REGISTRY)

    def __repr__(self) -> str:
        return f"<SigningKey {self.kid}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a SigningKey is a secret and is not pickled")


class _Annotation(msgspec.Struct, frozen=True):
    role: Role
    name: str
    issuer: str
    ca: str | None = None


class KeyFile:
    """A private key on disk, with its owner and the mint that knows it.

    Attributes:
        role: The owner's role.
        name: The agent's path, the operator's id, the service's audience or the witness's name; empty for
            a holder, which its delegator names.
        issuer: The mint's public base URL; empty for a witness or a holder, which belong to none.
        key: The key.
        ca: File of a further authority for TLS; None for the system's alone.  ``ARX_CA`` wins.
    """

    __slots__ = ("ca", "issuer", "key", "name", "role")

    def __init__(self, role: Role, name: str, issuer: str, key: SigningKey, ca: str | None = None) -> None:
        self.role, self.name, self.issuer, self.key, self.ca = role, name, issuer, key, ca

    @classmethod
    def generate(cls, role: Role, name: str, issuer: str) -> Self:
        """Return a new key in memory.

        Args:
            role: The owner's role.
            name: The owner's name.
            issuer: The mint's public base URL; empty for a witness or a holder.
        """
        return cls(role, name, issuer, SigningKey.generate())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a key file.

        Args:
            path: The file; only its owner may read it.

        Raises:
            SettingsError: The file is missing, other users can read it, or it is no key file.
        """
        raw = read_secret(Path(path))
        try:
            jwk = read_json_object(raw)
            about = msgspec.convert(jwk.pop("arx", None), _Annotation)
            key = SigningKey(OKPKey.import_key({name: jwk[name] for name in ("kty", "crv", "x", "d")}))
        except (ArxError, JoseError, msgspec.ValidationError, KeyError, ValueError) as error:
            # Not chained: the text of a parser could quote the private half.
            raise SettingsError(f"{path} is not an ARx key file ({type(error).__name__})") from None
        ca = None if about.ca is None else str(Path(path).parent / about.ca)
        return cls(about.role, about.name, about.issuer, key, ca)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key file with mode 0600; never replace an existing file.

        Args:
            path: The file to make.

        Raises:
            SettingsError: The file exists, or cannot be written.
        """
        about = {"issuer": self.issuer, "name": self.name, "role": self.role}
        about |= {} if self.ca is None else {"ca": self.ca}
        content = {**self.key.private_jwk(), "kid": self.key.kid, "arx": about}
        write_secret(Path(path), json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")

    @property
    def subject(self) -> str:
        """The owner in records and assertions: the agent's path, else role and name, ``operator:<id>``."""
        return self.name if self.role == "agent" else f"{self.role}:{self.name}"

    def __repr__(self) -> str:
        return f"<KeyFile of {self.subject}>"


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file that only this user can read, and sync it to disk.

    Args:
        path: The file to make.
        content: Its bytes, a secret.

    Raises:
        SettingsError: The file exists, or cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise SettingsError(f"{path} exists; it is not overwritten") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_secret(path: Path, content: bytes) -> None:
    """Replace a file atomically with one that only this user can read.

    Args:
        path: The file.
        content: Its new bytes, a secret.

    Raises:
        SettingsError: It cannot be written; the old file is unchanged.
    """
    try:
        with written_beside(path, content) as beside:
            beside.replace(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error


def read_secret(path: Path) -> bytes:
    """Read a file that only this user can read.

    Args:
        path: The file.

    Raises:
        SettingsError: It is missing, or its mode lets other users read it.
    """
    try:
        with path.open("rb") as file:
            if is_open_to_others(os.fstat(file.fileno()).st_mode):
                hint = f"run `chmod 600 {path}`; if another user may have read the key, replace it"
                raise SettingsError(f"{path}: other users can read it", hint=hint)
            return file.read()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
