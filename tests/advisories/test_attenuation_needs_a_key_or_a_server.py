# SPDX-License-Identifier: Apache-2.0
"""In a2a-firewall, only a holder of the root key could attenuate a token; in caracal, only a server.

ARx: a fresh process that holds the token's text alone, in a network namespace without any network, attenuates it and
hands it over; the result is accepted where the first was, and is narrower.
"""

import shutil
import subprocess
import sys

from tests.support import access, code_of, mint

HOLDER = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
from arx_verifier import Caveat, Macaroon, Rule
token = Macaroon.parse(sys.stdin.read())
attenuate = token.attenuate(Caveat(allow=(Rule(tool="orders.get"),)))
print(attenuate.delegate("acme/worker", Caveat(depth=0)).encode())
if opened:
    sys.exit(f"a socket was used: {opened}")
"""


def without_network() -> list[str]:
    """The command that runs another one without a network, where this system has one; the audit hook holds anywhere."""
    unshare = shutil.which("unshare")
    for flags in ("-rn", "-n"):
        if unshare and subprocess.run([unshare, flags, "true"], capture_output=True, check=False).returncode == 0:
            return [unshare, flags]
    return []


def test_a_token_alone_is_enough_to_attenuate_it() -> None:
    """No key, no file, no network: the text goes in, a narrower one comes out."""
    text = mint().encode()
    command = [*without_network(), sys.executable, "-I", "-c", HOLDER]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env={})
    assert done.returncode == 0, done.stderr
    attenuate = done.stdout.strip()
    assert code_of(text, access("orders.put")) == "ok"
    assert code_of(attenuate, access("orders.get")) == "ok"
    assert code_of(attenuate, access("orders.put")) == "tool_not_allowed"
