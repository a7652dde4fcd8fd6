# SPDX-License-Identifier: Apache-2.0
"""Call another service on the task that one was called for.  SPEC 20.6, RFC 8693.

The service's own enrolled key answers for the exchange; what it gets is never wider than what it was called with, and
is signed call by call as an agent's.
"""

import time
from pathlib import Path
from typing import Final

import httpx

from arx_caps.agent.bundle import Bundle
from arx_caps.agent.mint_client import MintClient
from arx_caps.agent.task import Task
from arx_caps.service.own_key import read_own_key
from arx_verifier.errors import ArxError, StoreError

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
TASK_TOKEN: Final = "urn:arx:token-type:task"  # noqa: S105 - a name, no secret


def exchange_token(path: Path | str, token: str, audience: str, *, client: httpx.Client | None = None) -> Task:
    """Exchange what this service was called with for a token for another service, on the same task.

    Args:
        path: The service file, with the service's own key.
        token: What it was called with, a secret, within 10 seconds of the call.
        audience: The service to call.
        client: What to call the mint with; one for this call when left out.

    Returns:
        The task for that service: ``auth`` or ``call_token`` sign calls.

    Raises:
        SettingsError: The service has no key of its own.
        TokenError: What it was called with is not alive, or was exchanged for this audience before.
        GrantError: The policy does not let this service, ``exchange_not_allowed``.
        StoreError: The mint does not answer.
        UnavailableError: It cannot exchange now.
    """
    own = read_own_key(Path(path))
    mint = MintClient(own.issuer, now=_now_ms, client=client, ca=own.ca)
    body = {"grant_type": GRANT_TYPE, "subject_token": token, "subject_token_type": TASK_TOKEN, "audience": audience}
    try:
        answer = mint.call("POST", "/v1/exchange", key=own.key, body=body)
        return Task(Bundle.parse(str(answer["bundle"])))
    except (KeyError, ArxError) as error:
        if isinstance(error, ArxError) and error.code != "malformed":
            raise
        raise StoreError(f"what {own.issuer} answers is no exchanged token; is it a mint of this version?") from None
    finally:
        if client is None:
            mint.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
