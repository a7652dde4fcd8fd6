# SPDX-License-Identifier: Apache-2.0
"""Clients of a realm's ledger, for tests that run in the environment of an adapter as well."""

from arx_verifier.ledger import NEW, RedisLedger


def new_ledger(url: str, realm: str, timeout_s: float = 30, password: str | None = None) -> RedisLedger:
    """A client of a realm's first ledger, as a new mint is: what was opened before it began was drawn on nowhere."""
    ledger = RedisLedger(url, realm, timeout_s=timeout_s, password=password)
    ledger.recall(NEW, str)
    return ledger
