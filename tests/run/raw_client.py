# SPDX-License-Identifier: Apache-2.0
"""Send raw requests through the front of `arx run`, each on a connection of its own; print the answers as JSON.

The arguments are JSON: for each, what to CONNECT to (empty for none), and what to send.
"""

import base64
import json
import os
import socket
import ssl
import sys
from urllib.parse import urlsplit


def answer(place: str, data: str) -> str:
    """Return all that the front sends."""
    proxy = urlsplit(os.environ["HTTPS_PROXY"])
    login = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    link: socket.socket = socket.create_connection((proxy.hostname, proxy.port), 60)
    if place:
        link.sendall(f"CONNECT {place} HTTP/1.1\r\nProxy-Authorization: Basic {login}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (part := link.recv(1)):
                return head.decode("latin-1")
            head += part
        if b" 200 " not in head:
            return head.decode("latin-1")
        host = place.rpartition(":")[0]
        link = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"]).wrap_socket(link, server_hostname=host)
    link.sendall(data.replace("LOGIN", login).encode("latin-1"))
    found = b""
    try:
        while part := link.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found.decode("latin-1")


if __name__ == "__main__":
    print(json.dumps([answer(*each) for each in json.loads(sys.argv[1])]))
