# SPDX-License-Identifier: Apache-2.0
"""TLS: trusted authorities, and explanations of refused certificates.  The `ca` setting and ``ARX_CA``.

Every TLS connection of ARx trusts the system's authorities and one further file.
"""

import os
import ssl
from collections.abc import Iterator
from typing import Any, Final

from arx_verifier.errors import SettingsError

VARIABLE: Final = "ARX_CA"

# Verification results of OpenSSL (x509_vfy.h).
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_UNKNOWN_ISSUER: Final = (2, 18, 19, 20, 21)
_OTHER_NAME: Final = (62, 64)
_TRUST_HINT: Final = f"set `ca`, or {VARIABLE}, to the file of the authority that issued it"


def ca_file(ca: str | None = None) -> str | None:
    """Return the file of the further authority: ``ARX_CA``, else the setting, else None.

    Args:
        ca: The `ca` of a realm's, a key's or a service's file.
    """
    return os.environ.get(VARIABLE) or ca


def trust(context: ssl.SSLContext, ca: str | None = None) -> ssl.SSLContext:
    """Add the further authority to the authorities that a context trusts.

    Args:
        context: The context, which is changed.
        ca: The `ca` of a realm's, a key's or a service's file.

    Returns:
        The same context.

    Raises:
        SettingsError: The file of the further authority cannot be read.
    """
    file = ca_file(ca)
    try:
        if file is not None:
            context.load_verify_locations(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        why = "no certificate in PEM is in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(f"the `ca` {file} cannot be read: {why}; it is set in {VARIABLE} or in a file") from error
    return context


def make_context(ca: str | None = None) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities and the further one; raises as ``trust``."""
    return trust(ssl.create_default_context(), ca)


def add_authority(settings: dict[str, Any], ca: str | None = None) -> None:
    """Add the further authority to the settings of redis-py, unless they name one.

    Args:
        settings: Settings of a TLS connection, which are changed.
        ca: The `ca` of a realm's or a service's file.

    Raises:
        SettingsError: The file of the further authority cannot be read.
    """
    file = ca_file(ca)
    if file is not None and "ssl_ca_certs" not in settings:
        trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca)  # check the file now, not at the first connection
        settings["ssl_ca_certs"] = file


def explain(error: BaseException, host: str) -> str | None:
    """Return why TLS failed: whose certificate was refused, why, and what to do.

    Args:
        error: The error of any library.
        host: The host of the connection.

    Returns:
        The explanation; None if TLS is not the cause.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            why, hint = _refusal(cause)
            return f"the certificate of {host} was refused: {why}; {hint}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS with {host} failed ({cause.reason or type(cause).__name__}): see that it speaks TLS there"
    return None


def _refusal(error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    if error.verify_code in _UNKNOWN_ISSUER:
        return "unknown issuer", _TRUST_HINT
    if error.verify_code in _OTHER_NAME:
        return "it is for another name", "use an address that it names, or have one issued for this host"
    if error.verify_code == _EXPIRED:
        return "it has expired", "renew it there; if it is valid, set this machine's clock"
    if error.verify_code == _NOT_YET_VALID:
        return "it is not valid yet", "set this machine's clock, or look at the dates in it"
    return error.verify_message or "it could not be verified", _TRUST_HINT


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, each once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:  # the causes of an error may form a cycle
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
