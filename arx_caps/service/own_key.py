# SPDX-License-Identifier: Apache-2.0
"""Read a service file together with the service's own key, for requests to the mint.  CONTROL 3."""

from pathlib import Path
from typing import NamedTuple

from arx_caps.credentials.keyfile import KeyFile, SigningKey
from arx_verifier.errors import SettingsError
from arx_verifier.service import ServiceConfig, read_service_file


class ServiceIdentity(NamedTuple):
    """A service that can authenticate itself to the mint.

    Attributes:
        file: Its service file.
        issuer: The mint's URL.
        key: Its enrolled key.
        ca: File of a further authority for TLS, or None.
    """

    file: ServiceConfig
    issuer: str
    key: SigningKey
    ca: str | None


def read_own_key(path: Path) -> ServiceIdentity:
    """Read a service file and the key that it names.

    Args:
        path: The service file.

    Raises:
        SettingsError: The file names no issuer or key, or the key is unusable or another service's.
    """
    file = read_service_file(path)
    if file.issuer is None or file.key_file is None:
        raise SettingsError(
            f"{path} names no `issuer` or `key_file`: enrol a key of the service's own with `arx service enrol`"
        )
    # Relative to the service file, so that both can be mounted into a container together.
    key = KeyFile.load(path.parent / file.key_file)
    # The mint answers with the keys of the service that owns the key: another service's would be written into this
    # file.
    if (key.role, key.name) != ("service", file.audience):
        raise SettingsError(f"{file.key_file} is the key of {key.subject}, not of service:{file.audience}")
    return ServiceIdentity(file, file.issuer, key.key, file.ca or key.ca)
