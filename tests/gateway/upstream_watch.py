# SPDX-License-Identifier: Apache-2.0
"""An MCP server over stdio that sends progress of each `watch` without end, and answers all else at once.

``python upstream_watch.py PAUSE_S``
"""

import json
import sys
import threading
import time
from typing import Any

_lock = threading.Lock()


def write(message: dict[str, Any]) -> None:
    with _lock:
        print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def watch(token: object, pause_s: float) -> None:
    pause = threading.Event()
    while not pause.wait(pause_s):
        facts = {"progressToken": token, "progress": time.monotonic_ns()}  # one clock for all processes of a machine
        write({"method": "notifications/progress", "params": facts})


for line in sys.stdin:
    message = json.loads(line)
    params = message.get("params", {})
    if params.get("name") == "watch":
        token = params["_meta"]["progressToken"]
        threading.Thread(target=watch, args=(token, float(sys.argv[1])), daemon=True).start()
    elif "id" in message:
        write({"id": message["id"], "result": {}})
