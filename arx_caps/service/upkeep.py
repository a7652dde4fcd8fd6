# SPDX-License-Identifier: Apache-2.0
"""Refresh a service's keys and ship its records, in the process of its verifier.  LOG 2.6, CONTROL 3.2.

``arx_verifier.upkeep`` calls it in a thread.  Decisions never wait for it.
"""

import logging
import threading
from pathlib import Path
from typing import Final

from arx_caps.service.refresh import KeyRefresher
from arx_caps.service.shipper import open_shipper
from arx_verifier.errors import SettingsError
from arx_verifier.metrics import SHIPPING
from arx_verifier.service import read_service_file
from arx_verifier.token import KeyRing

FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 60.0

_log = logging.getLogger(__name__)


def keep_service(path: Path, keys: KeyRing, stop: threading.Event) -> None:
    """Refresh the keys, and ship the records where no other process ships them, until ``stop`` is set.

    Args:
        path: The service file, which names the mint and the service's own key.
        keys: The keys of the running verifier.
        stop: Ends it; the records of the last moments are sent first.
    """
    said, pause_s = "", FIRST_RETRY_S
    while not stop.is_set():
        try:
            refresher, shipper = KeyRefresher(path, keys), open_shipper(path, yields=True)
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
    # Every process refreshes: where the service file cannot be written, it alone learns its keys.
    refresher.start()
    service = read_service_file(path).audience
    SHIPPING[service] = lambda: shipper.status.failing_ms / 1000
    try:
        shipper.run(stop)
        shipper.send_rest()
    finally:
        SHIPPING.pop(service, None)
        shipper.close()
        refresher.close()
