# SPDX-License-Identifier: Apache-2.0
"""Record the hashes of a release in the signed log of a realm, and prove each record; ``deploy/release.py`` runs it.

The release is a task of this realm: its agent may record files of one version, and a verifier decides on each record.
It runs in the environment of the release's own wheels.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Final

from arx_caps import Agent
from arx_caps.demo.realm import DemoRealm, free_addresses
from arx_verifier import current_grant, open_verifier, protect

AGENT: Final = "arx/release"
SERVICE: Final = "release"
TOOL: Final = "release.record"
POLICY: Final = f"""
[audience.{SERVICE}]
origins = ["http://127.0.0.1:1"]

[session.release]
agents = ["{AGENT}"]
ttl = "1h"

[task.release]
agents = ["{AGENT}"]
params = {{ version = {{ max_length = 32 }} }}
ttl = "1h"
audience = ["{SERVICE}"]

[[task.release.allow]]
tool = "{TOOL}"
args = {{ version = "$version", file = {{ max_length = 128 }}, sha256 = {{ max_length = 64 }} }}
"""


def open_realm(realm: DemoRealm) -> tuple[Path, Path]:
    """Start the realm, made and enrolled in before its first release; return the agent's key and the service file."""
    key, service = realm.folder / "release.key.json", realm.folder / "release.arx.json"
    is_new = not realm.folder.exists()
    if is_new:
        realm.arx("init", realm.folder, "--name", "arx-releases", "--issuer", *free_addresses(1))
        (realm.folder / "policy.toml").write_text(POLICY, encoding="utf-8")
    if not next(realm.start("-m", "arx_caps.cli", "up"), ""):  # it writes a line when it is ready
        sys.exit(f"the realm in {realm.folder} does not start: its error is above\nhint: mend it, or give other --keys")
    if is_new:
        realm.arx("agent", "enrol", AGENT, "--key-out", key)
        realm.arx("service", "enrol", SERVICE, "--out", service)
        settings = json.loads(service.read_text(encoding="utf-8")) | {"record_arguments": [TOOL]}
        service.write_text(json.dumps(settings), encoding="utf-8")
    return key, service


def record_files(key: Path, service: Path, version: str, hashes: dict[str, str]) -> dict[str, str]:
    """Record the hashes of files, by name, as calls of one task; return the id of each record."""
    ids: dict[str, str] = {}
    verifier = open_verifier(service)

    @protect(verifier, tool=TOOL)
    def record(**call: str) -> None:
        ids[call["file"]] = current_grant().decision

    with Agent.from_key_file(key).open_session(purpose=f"release {version}") as session:
        task = session.start_task("release", version=version)
        for file, sha256 in hashes.items():
            call = {"version": version, "file": file, "sha256": sha256}
            record(**call, arx_token=task.call_token(SERVICE, TOOL, call))
    verifier.close()
    return ids


def main(folder: str, version: str, sums: str, out: str) -> None:
    """Record each line of ``SHA256SUMS``; write a proof of each record, and the key of the log."""
    hashes = {name: sha256 for sha256, name in map(str.split, Path(sums).read_text(encoding="utf-8").splitlines())}
    with contextlib.ExitStack() as stack:
        realm = DemoRealm(Path(folder).resolve(), stack)
        ids = record_files(*open_realm(realm), version, hashes)
        realm.arx("ship", realm.folder / "release.arx.json", "--once")
        Path(out, "log.key").write_text(realm.arx("audit", "key"), encoding="utf-8")
        for file, decision in ids.items():
            realm.arx("audit", "prove", decision, "--out", Path(out, f"{file}.tlog-proof"))


if __name__ == "__main__":
    main(*sys.argv[1:])
