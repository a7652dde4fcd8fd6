# SPDX-License-Identifier: Apache-2.0
"""Refresh a service's keys and ship its records, in the process of its verifier.  LOG 2.6, CONTROL 3.2.

``arx_verifier.upkeep`` calls it in a thread.  Decisions never wait for it.
"""

import logging
import threading
import time
from pathlib import Path
from typing import Final

from arx_caps.audit.shipping.shipper import Shipper
from arx_caps.service.refresh import KeyRefresher
from arx_caps.service.shipper import open_shipper
from arx_verifier.clock import now_ms
from arx_verifier.errors import SettingsError
from arx_verifier.metrics.export import SHIPPING, Samples
from arx_verifier.token.keyring import KeyRing

FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 60.0

_log = logging.getLogger(__name__)


def keep_service(path: Path, audience: str, keys: KeyRing, stop: threading.Event) -> None:
    """Refresh the keys, and ship the records where no other process ships them, until ``stop`` is set.

    Args:
        path: The service file, which names the mint and the service's own key.
        audience: The service.
        keys: The keys of the running verifier.
        stop: Ends it; the records of the last moments are sent first.
    """
    began, made = time.monotonic(), list[tuple[KeyRefresher, Shipper]]()

    def samples() -> Samples:
        # What has never worked has failed since the start, also while the file is not usable.
        behind = keys_age = time.monotonic() - began
        lost, forked = 0, False
        for refresher, shipper in made:
            status, refreshed_at = shipper.status, refresher.status.refreshed_at
            behind, lost, forked = status.failing_ms / 1000, status.lost, status.fork is not None
            keys_age = keys_age if refreshed_at is None else (now_ms() - refreshed_at) / 1000
        yield "arx_verifier_ship_behind_seconds", behind, audience
        yield "arx_verifier_lost_records", lost, audience
        yield "arx_verifier_forked", forked, audience
        yield "arx_verifier_keys_age_seconds", keys_age, audience

    SHIPPING[stop] = samples
    try:
        _keep(path, keys, stop, made)
    finally:
        del SHIPPING[stop]


def _keep(path: Path, keys: KeyRing, stop: threading.Event, made: list[tuple[KeyRefresher, Shipper]]) -> None:
    said, pause_s = "", FIRST_RETRY_S
    while not stop.is_set():
        try:
            made.append((KeyRefresher(path, keys), open_shipper(path, yields=True)))
            break
        except SettingsError as error:
            # The file may be mended, such as its mode: a service is not restarted for that.
            if str(error) != said:
                said = str(error)
                _log.error("no record of this process is shipped, and no key refreshed: %s", error)
        stop.wait(pause_s)
        pause_s = min(2 * pause_s, LAST_RETRY_S)
    else:
        return
    [(refresher, shipper)] = made
    # Every process refreshes: where the service file cannot be written, it alone learns its keys.
    refresher.start()
    try:
        shipper.run(stop)
        shipper.send_rest()
    finally:
        shipper.close()
        refresher.close()
