# SPDX-License-Identifier: Apache-2.0
"""Log a person in at the realm's OpenID Connect issuer by a device code: RFC 8628, OIDC Discovery 4.

The person confirms the code in a browser, on any machine.  The mint takes the ID token for an operator's token.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import httpx
import msgspec

from arx_caps.cli import exit_codes
from arx_caps.cli.exit_codes import Stop
from arx_caps.credentials.secret_source import SecretStruct
from arx_caps.http.client import fetch, no_answer
from arx_caps.settings.realm import is_safe_url
from arx_verifier.errors import ArxError, RequestError
from arx_verifier.request import read_json_object

GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
TIMEOUT_S: Final = 10.0
TOTAL_S: Final = 30.0  # for a whole answer, however slowly it arrives
MAX_BYTES: Final = 64 * 1024
SLOWER_S: Final = 5  # RFC 8628 3.5: for each slow_down, and for good
MAX_INTERVAL_S: Final = 60
MAX_WAIT_S: Final = 30 * 60


class DeviceCode(SecretStruct, frozen=True):
    """What the issuer asks the person for (RFC 8628 3.2)."""

    device_code: str
    user_code: str
    verification_uri: str
    expires_in: int
    interval: int = 5
    verification_uri_complete: str = ""


class _Discovered(msgspec.Struct, frozen=True):
    issuer: str
    token_endpoint: str
    device_authorization_endpoint: str = ""


class DeviceLogin(NamedTuple):
    """A login by a device code.

    Attributes:
        issuer: The issuer's URL.
        client_id: The id of this program there.
        scope: The scope to ask for.
        ca: File of a further authority for TLS, or None.
        show: Called once with what the person needs.
        wait: Waits a number of seconds.
    """

    issuer: str
    client_id: str
    scope: str
    ca: str | None
    show: Callable[[DeviceCode], None]
    wait: Callable[[float], None] = time.sleep

    def run(self) -> str:
        """Return the ID token of the person who confirmed the code.

        Raises:
            Stop: The issuer does not answer or knows no device codes; the person refused, or took too long.
        """
        metadata = self._discover()
        form = {"client_id": self.client_id, "scope": self.scope}
        status, answer = self._ask(metadata.device_authorization_endpoint, form)
        try:
            if status != httpx.codes.OK:
                raise ValueError(f"the answer is {status}, {_error_of(answer)}")
            code = msgspec.convert(answer, DeviceCode)
            if not all(map(is_safe_url, filter(None, (code.verification_uri, code.verification_uri_complete)))):
                raise ValueError("its page is not https:")
        except (msgspec.ValidationError, ValueError) as error:
            raise self._stop(f"gave no device code: {error}") from None
        self.show(code)
        return self._poll(metadata.token_endpoint, code)

    def _poll(self, endpoint: str, code: DeviceCode) -> str:
        form = {"grant_type": GRANT, "device_code": code.device_code, "client_id": self.client_id}
        interval = float(min(max(code.interval, 1), MAX_INTERVAL_S))
        until = time.monotonic() + min(code.expires_in, MAX_WAIT_S)
        while time.monotonic() < until:
            self.wait(interval)
            try:
                status, answer = self._ask(endpoint, form)
            except _NoAnswer:
                interval = min(2 * interval, MAX_INTERVAL_S)  # RFC 8628 3.5
                continue
            error = _error_of(answer)
            if status == httpx.codes.OK:
                token = answer.get("id_token")
                if isinstance(token, str) and token.isascii():
                    return token
                raise self._stop("answered without an ID token: `login_scope` of the realm needs openid")
            if error == "slow_down":
                interval = min(interval + SLOWER_S, MAX_INTERVAL_S)
            elif error == "access_denied":
                raise self._stop("answered that the login was refused", exit_codes.UNAUTHENTICATED)
            elif error == "expired_token":
                break
            elif error != "authorization_pending":
                raise self._stop(f"refused the device code: {error}")
        raise Stop(
            "the code was not confirmed in time",
            exit_codes.UNAUTHENTICATED,
            hint="run `arx login` again",
            code="expired_token",
        )

    def _discover(self) -> _Discovered:
        # The mint names the issuer, and a plain http: address would let others in the network answer for it.
        if not is_safe_url(self.issuer):
            raise self._stop("is not https:")
        status, answer = self._ask(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration", None)
        try:
            found = msgspec.convert(answer, _Discovered)
        except msgspec.ValidationError:
            raise self._stop(f"answers {status} without metadata") from None
        if found.issuer != self.issuer:  # OIDC Discovery 4.3
            raise self._stop("calls itself by another name")
        if not found.device_authorization_endpoint:
            raise self._stop("knows no device codes (RFC 8628)")
        if not all(map(is_safe_url, (found.token_endpoint, found.device_authorization_endpoint))):
            raise self._stop("has an endpoint that is not https:")
        return found

    def _ask(self, url: str, form: Mapping[str, str] | None) -> tuple[int, dict[str, Any]]:
        """Return status and JSON object of an answer; an empty object if it has none."""
        try:
            status, raw = fetch(url, timeout=TIMEOUT_S, total_s=TOTAL_S, longest=MAX_BYTES, ca=self.ca, form=form)
        except RequestError as error:
            raise self._stop(f"cannot be used: {error}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _NoAnswer(
                f"the login issuer {self.issuer} did not answer ({no_answer(error, url)})",
                exit_codes.UNREACHABLE,
                code="issuer_unavailable",
            ) from None
        try:
            return status, read_json_object(raw)
        except (ArxError, ValueError, RecursionError):
            return status, {}

    def _stop(self, why: str, exit_code: int = exit_codes.DENIED) -> Stop:
        return Stop(f"the login issuer {self.issuer} {why}", exit_code, code="bad_subject_token")

    def __repr__(self) -> str:
        return f"<DeviceLogin at {self.issuer}>"


class _NoAnswer(Stop):
    """The issuer did not answer; it may, later."""


def _error_of(answer: Mapping[str, Any]) -> str:
    error = answer.get("error")
    return error[:60] if isinstance(error, str) and error else "without an error of OAuth"
