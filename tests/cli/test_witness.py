# SPDX-License-Identifier: Apache-2.0
"""``arx witness``: a real one in a process of its own, made and asked as an operator would."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from arx_caps.audit.merkle import tree
from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.note import Note, VerifierKey
from arx_caps.audit.merkle.tree import Tree, leaf_hash
from arx_caps.audit.witness.client import ask_witness
from arx_caps.cli.commands.doctor.mints import check_witnesses
from tests.audit.world import LOG, OTHER, STRANGER, WITNESS, checkpoint_of, records
from tests.cli.helpers import arx
from tests.mint.harness import log_signer, make_realm


def test_init_makes_a_key_once(tmp_path: Path) -> None:
    """Mode 0600, never overwritten, with a name that a note can hold."""
    output = arx("witness", "init", tmp_path / "w", "--name", "w.example/1", "--json").json
    assert VerifierKey.parse(output["key"]).name == "w.example/1"
    assert (tmp_path / "w" / "witness.json").stat().st_mode & 0o777 == 0o600
    assert arx("witness", "init", tmp_path / "w", "--name", "w.example/1").exit_code == 2
    assert arx("witness", "init", tmp_path / "v", "--name", "a b").exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--log"),
        (("--log", "x"), "x: No such file"),
        (("--log", str(WITNESS.key)), "expected the key of a log"),
        (("--log", str(LOG.key), "--listen", "0.0.0.0:0"), "--behind-tls"),
        (("--log", str(LOG.key), "--listen", "8760"), "host:port"),
        (("--log", str(LOG.key), "--listen", "127.0.0.1:" + "9" * 5000), "host:port"),
    ],
)
def test_what_it_cannot_serve_it_says(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    """Before it listens anywhere."""
    arx("witness", "init", tmp_path, "--name", "w.example/1")
    ran = arx("witness", "serve", tmp_path, *words)
    assert ran.exit_code == 2
    assert message in ran.err


def test_the_doctor_misses_a_witness(tmp_path: Path) -> None:
    """What was published without a cosignature that the realm names is found before an auditor asks for it."""
    realm = make_realm(tmp_path / "realm")
    realm = dataclasses.replace(realm, witnesses=(f"http://127.0.0.1:1 {WITNESS.key}",))
    assert list(check_witnesses(realm)) == []  # nothing was published yet
    realm.log_dir.mkdir(exist_ok=True)
    log, kept = log_signer(realm), records(5)
    for witnesses, ok in (((), False), ((STRANGER,), False), ((WITNESS, STRANGER), True)):
        (realm.log_dir / "checkpoint").write_bytes(checkpoint_of(kept, log, *witnesses))
        [check] = check_witnesses(realm)
        assert (check.name, check.ok, WITNESS.key.name in check.found) == ("witnesses", ok, True)
    (realm.log_dir / "checkpoint").write_bytes(checkpoint_of(kept, OTHER, WITNESS))
    assert [check.ok for check in check_witnesses(realm)] == [False]


@pytest.mark.slow
@pytest.mark.spec("LOG 1.6")
@pytest.mark.servers
def test_a_served_witness_cosigns_and_stops_in_order(tmp_path: Path) -> None:
    """It says where it listens, cosigns two sizes, forgets nothing when killed, and ends with 0."""
    key = VerifierKey.parse(arx("witness", "init", tmp_path / "w", "--name", "w.example/1", "--json").json["key"])
    kept, whole = records(20), Tree(map(leaf_hash, records(20)))

    def start() -> tuple["subprocess.Popen[str]", str]:
        words = ["witness", "serve", str(tmp_path / "w"), "--log", str(LOG.key), "--listen", "127.0.0.1:0", "--json"]
        process = subprocess.Popen([sys.executable, "-m", "arx_caps.cli", *words], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())["listen"]

    def ask(at: str, size: int, old: int) -> None:
        note = Note.parse(checkpoint_of(kept[:size]))
        line = ask_witness(at, key, note, lambda old: tree.consistency_proof(whole.subtree, old, size), old=old)
        assert key in open_checkpoint(note.signed(line), LOG.key, [key]).seen

    process, at = start()
    ask(at, 5, 0)
    process.kill()
    process.communicate()
    process, at = start()
    ask(at, 20, 0)
    assert httpx.post(f"{at}/add-checkpoint", content=b"old 0\n\n" + checkpoint_of(kept)).status_code == 409
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0
