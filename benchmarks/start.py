# SPDX-License-Identifier: Apache-2.0
"""How long it takes to start: imports, the command's help, and a service's first decision beside many kills.

Processes are started in turns, each beside an interpreter that does nothing.  Given are, by the clock from before
the process is there until it has ended, the median and the least, which others disturb least, and its processor time.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import say
from benchmarks.realm import Realm, realm
from benchmarks.world import ARGS, TOOL

ROUNDS: Final = 15
COLD_ROUNDS: Final = 7
COMMANDS: Final[dict[str, Sequence[str]]] = {
    "an interpreter that does nothing": ("-c", "pass"),
    "import msgspec": ("-c", "import msgspec"),
    "import arx_verifier": ("-c", "import arx_verifier"),
    "a holder: from arx_verifier import Macaroon, Caveat, CallSigner": (
        "-c",
        "from arx_verifier import Macaroon, Caveat, CallSigner",
    ),
    "a service: from arx_verifier import *": ("-c", "from arx_verifier import *"),
    "arx --help": (str(Path(sys.executable).with_name("arx")), "--help"),
}
# A service's process: everything from the import to the first recorded decision.  What was signed before a service
# started is refused, so the call comes when it is ready.
SERVICE: Final = """
import json, sys
from arx_verifier import AccessRequest
from arx_verifier.service import open_verifier
verifier = open_verifier(sys.argv[1])
verifier.start()
assert verifier.epochs.catch_up(0, int(sys.argv[2]), 30)
print("ready", flush=True)
call = json.loads(sys.stdin.readline())
decision = verifier.decide(call.pop("token"), AccessRequest(**call))
print(decision.code, len(verifier.epochs._state.kills), flush=True)
verifier.close()
"""


def run(command: Sequence[str]) -> tuple[float, float]:
    """Run it; returns clock and processor time, ms."""
    began = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, *command],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, used = os.wait4(pid, 0)
    took = time.perf_counter() - began
    assert status == 0, command
    return took * 1000, (used.ru_utime + used.ru_stime) * 1000


def cold(on: Realm, kills: int) -> float:
    """Start a service's process and let it decide; returns the time until it has, ms."""
    command = [sys.executable, "-c", SERVICE, str(on.service), str(on.store.header().seq)]
    pipe = subprocess.PIPE
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    token, at = on.tool_call()
    process.stdin.write(json.dumps({"token": token, "tool": TOOL, "args": ARGS, "at": at}) + "\n")
    process.stdin.flush()
    told = process.stdout.readline()
    took = time.perf_counter() - began
    process.communicate(timeout=30)
    assert told == f"ok {kills}\n", told
    return took * 1000


def measure(kills: int) -> dict[str, Any]:
    """Measure all of it, the last beside so many kills."""
    say("start")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            times[name].append(run(command))
    rows = [
        {
            "what": name,
            "ms": round(statistics.median(clock for clock, _ in found), 1),
            "least_ms": round(min(clock for clock, _ in found), 1),
            "cpu_ms": round(statistics.median(used for _, used in found), 1),
        }
        for name, found in times.items()
    ]
    say(f"cold start beside {kills:,} kills")
    with realm(kills) as on:
        colds = [cold(on, kills) for _ in range(COLD_ROUNDS)]
    return {
        "rows": rows,
        "cold": {"kills": kills, "ms": round(statistics.median(colds), 1), "least_ms": round(min(colds), 1)},
    }
