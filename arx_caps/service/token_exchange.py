# SPDX-License-Identifier: Apache-2.0
"""Exchange the token of a call for a token for another service.  CONTROL 2.6, RFC 8693."""

from pathlib import Path
from typing import Final

import httpx

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.service.own_key import read_own_key
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, StoreError

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
TASK_TOKEN: Final = "urn:arx:token-type:task"  # noqa: S105 - a name, no secret


def exchange_token(path: Path | str, token: str, audience: str, *, client: httpx.Client | None = None) -> Task:
    """Exchange the token of a call for a token for another service, on the same task.

    The new token is never wider than the old one.  The service signs each call with it, as an agent does.

    Args:
        path: The service file, which names the service's own key.
        token: The token that the service was called with, a secret, within 10 seconds of the call.
        audience: The service to call.
        client: The HTTP client; a new one for this call when omitted.

    Returns:
        The task for that service: ``auth`` or ``call_token`` sign calls.

    Raises:
        SettingsError: The service has no key of its own.
        TokenError: The token has expired, was revoked, or was exchanged for this audience before.
        GrantError: ``exchange_not_allowed``: the policy does not allow it.
        StoreError: The mint does not answer.
        UnavailableError: The mint cannot exchange now.
    """
    own = read_own_key(Path(path))
    mint = MintClient(own.issuer, now=now_ms, client=client, ca=own.ca)
    body = {"grant_type": GRANT_TYPE, "subject_token": token, "subject_token_type": TASK_TOKEN, "audience": audience}
    try:
        answer = mint.call("POST", "/v1/exchange", key=own.key, body=body)
        return Task(Bundle.parse(str(answer["bundle"])), key=own.key)
    except (KeyError, ArxError) as error:
        if isinstance(error, ArxError) and error.code != "malformed":
            raise
        raise StoreError(
            f"malformed answer of {own.issuer}: expected an exchanged token; is it a mint of this version?"
        ) from None
    finally:
        if client is None:
            mint.close()
