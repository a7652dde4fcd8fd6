# SPDX-License-Identifier: Apache-2.0
"""The command of a task that is killed: it starts some work, waits for a line, and then calls until a call is refused.

The argument is JSON: the words of the work, empty for none, and the host and the target of the calls.  It prints when
each call began, its status, and the status and the end of the work; times are those of the monotonic clock.
"""

import base64
import http.client
import json
import os
import ssl
import subprocess
import sys
import time
from urllib.parse import urlsplit


def main(work: list[str], host: str, target: str) -> None:
    """Do it."""
    running = subprocess.Popen(work or ["true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("begun", flush=True)
    sys.stdin.readline()
    proxy = urlsplit(os.environ["HTTPS_PROXY"])
    login = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    link = http.client.HTTPSConnection(str(proxy.hostname), proxy.port, timeout=60, context=context)
    link.set_tunnel(host, 443, {"Proxy-Authorization": f"Basic {login}"})
    calls: list[tuple[float, int]] = []
    while not calls or calls[-1][1] == 200:
        begun = time.monotonic()
        link.request("GET", target)
        answer = link.getresponse()
        answer.read()
        calls.append((begun, answer.status))
    status = running.wait()
    print(json.dumps({"calls": calls, "status": status, "ended": time.monotonic()}), flush=True)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
