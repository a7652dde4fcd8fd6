# SPDX-License-Identifier: Apache-2.0
"""A stranger who reads a notification must not send it again later, nor as another one, nor change it.

CONTROL 7.2, Standard Webhooks: the signature is of id, time of the attempt and body together.
"""

import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from arx_caps.mint.notifications.message import sign
from arx_caps.mint.notifications.receivers import new_secret

pytestmark = pytest.mark.spec("CONTROL 7.2")

BODY = b'{"type":"targets.killed"}'


def test_another_time_id_body_or_secret() -> None:
    """An independent library refuses each, and takes what was signed."""
    secret, now = new_secret(), int(time.time())
    signed = sign(secret, "n-1", now, BODY)
    assert Webhook(secret).verify(BODY, signed) == {"type": "targets.killed"}
    assert set(signed) == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    for body, headers in (
        (BODY, sign(secret, "n-1", now - 3600, BODY)),  # captured an hour ago
        (BODY, signed | {"webhook-timestamp": str(now + 1)}),
        (BODY, signed | {"webhook-id": "n-2"}),
        (BODY + b" ", signed),
        (BODY, sign(new_secret(), "n-1", now, BODY)),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers)
