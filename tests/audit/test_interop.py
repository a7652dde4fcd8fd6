# SPDX-License-Identifier: Apache-2.0
"""An independent implementation, ``aics-tlog``, accepts our logs, and we accept its: checkpoints, proofs, tiles.

It needs Python 3.12.  Where this interpreter is older, another one of this machine gets it in an environment of its
own, beside ours, made once.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from arx_caps.audit.merkle import tree
from arx_caps.audit.merkle.note import Note, VerifierKey
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.audit.merkle.tree import EMPTY_ROOT, check_consistency
from arx_caps.audit.merkle.verification import Trust, verify
from tests.audit.world import AT_S, LOG, WITNESS, body, checkpoint_of, records, write
from tests.vectors import log_vectors

pytestmark = pytest.mark.install
SCRIPT = Path(__file__).with_name("oracle.py")
PACKAGE = "aics-tlog==0.2.1"
PYTHONS = ("python3.12", "python3.13", "python3.14", "python3", "/usr/bin/python3")


@pytest.fixture(scope="module")
def oracle() -> Path:
    """An interpreter that has the other implementation."""
    if importlib.util.find_spec("aics_tlog") is not None:
        return Path(sys.executable)
    python = Path(sys.prefix) / "tlog" / "bin" / "python"
    if _has_it(python):
        return python
    for name in PYTHONS:
        found = shutil.which(name)
        if found is not None and _runs(found, "import sys, ensurepip; sys.exit(sys.version_info < (3, 12))"):
            subprocess.run([found, "-m", "venv", "--clear", python.parents[1]], check=True, capture_output=True)
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]
            if subprocess.run(install, capture_output=True, check=False).returncode == 0 and _has_it(python):
                return python
    if os.environ.get("ARX_REQUIRE_TLOG"):
        pytest.fail(f"no Python 3.12 or later can be given {PACKAGE}, and ARX_REQUIRE_TLOG says that one has to be")
    pytest.skip(f"no Python 3.12 or later with {PACKAGE}")


def _has_it(python: Path) -> bool:
    return python.exists() and _runs(python, "import aics_tlog")


def _runs(python: str | Path, code: str) -> bool:
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def ask(oracle: Path, verb: str, folder: Path) -> dict[str, Any]:
    """Run the other implementation; whatever it refuses fails the test with its words."""
    done = subprocess.run([oracle, SCRIPT, verb, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert isinstance(output, dict)
    return output


def b64(raw: bytes) -> str:
    """Base64, as JSON holds it."""
    return b64encode(raw).decode()


@pytest.mark.slow
@pytest.mark.spec("LOG 1.2", "LOG 1.3", "LOG 1.4")
@pytest.mark.parametrize("size", [1, 44, 256, 257, 70_000])
def test_they_accept_what_we_write(oracle: Path, tmp_path: Path, size: int) -> None:
    """Every tile and bundle, the cosigned checkpoint, proofs and proof files around every boundary."""
    log = write(tmp_path, records(size))
    log.published.write_bytes(checkpoint_of(log.records, LOG, WITNESS))
    (tmp_path / "log.vkey").write_text(str(LOG.key))
    (tmp_path / "witness.vkey").write_text(str(WITNESS.key))
    (tmp_path / "older").mkdir()
    edges = {0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, size // 2, size - 1, size}
    olds = sorted(each for each in edges if each <= size)
    for old in olds:
        (tmp_path / "older" / str(old)).write_bytes(checkpoint_of(log.records[:old]))
    continued = [{"old": old, "proof": list(map(b64, log.reader.consistency(old)))} for old in olds]
    proven = [
        {"index": at, "kept": b64(log.records[at]), "path": list(map(b64, log.reader.inclusion(at)))}
        for at in sorted(each for each in edges if each < size)
    ]
    (tmp_path / "consistency.json").write_text(json.dumps(continued))
    (tmp_path / "inclusion.json").write_text(json.dumps(proven))
    note = Note.parse(log.published.read_bytes())
    (tmp_path / "proofs").mkdir()
    for at in sorted(each for each in edges if each < size):
        made = RecordProof(log.records[at], body(at), at, tuple(log.reader.inclusion(at)), note)
        (tmp_path / "proofs" / str(at)).write_bytes(made.encode())
    answer = ask(oracle, "read", tmp_path)
    assert (answer["inclusion"], answer["consistency"], answer["files"]) == (len(proven), len(olds), len(proven))
    assert answer["bundles"] == -(-size // 256)


@pytest.mark.slow
def test_they_accept_the_vectors(oracle: Path, tmp_path: Path) -> None:
    """So that an implementer who uses the vectors agrees with them as well."""
    shutil.copytree(Path(__file__).parent.parent / "vectors" / "log", tmp_path / "log")
    whole = tree.Tree(map(tree.leaf_hash, log_vectors.RECORDS))
    proven = [
        {"index": at, "kept": b64(log_vectors.RECORDS[at]), "path": list(map(b64, path))}
        for at in (0, 255, 256, 299)
        for path in [tree.inclusion_proof(whole.subtree, at, log_vectors.SIZE)]
    ]
    (tmp_path / "log" / "inclusion.json").write_text(json.dumps(proven))
    assert ask(oracle, "read", tmp_path / "log")["consistency"] == len(log_vectors.OLDER)


@pytest.mark.slow
@pytest.mark.spec("LOG 1.2", "LOG 1.3", "LOG 1.4")
def test_we_accept_what_they_write(oracle: Path, tmp_path: Path) -> None:
    """Their tiles, their checkpoint with its cosignature, their consistency proofs."""
    ask(oracle, "write", tmp_path)
    key, witness = (VerifierKey.parse((tmp_path / name).read_text()) for name in ("log.vkey", "witness.vkey"))
    checked = verify(tmp_path, Trust(key, (witness,)))
    assert (checked.records, dict(checked.seen)) == (700, {witness: AT_S})
    head = checked.checkpoint
    for given in json.loads((tmp_path / "consistency.json").read_text()):
        root, proof = b64decode(given["root"]), [b64decode(each) for each in given["proof"]]
        check_consistency(given["old"], root, head.size, head.root, proof)
    check_consistency(0, EMPTY_ROOT, head.size, head.root, [])
