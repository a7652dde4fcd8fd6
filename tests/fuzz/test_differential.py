# SPDX-License-Identifier: Apache-2.0
"""The comparison of two source trees finds a changed line, and nothing between a tree and itself."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.house.pages import ROOT

PAIRS = 1_500


def compared(former: Path, new: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the comparison; return its exit code and its result."""
    command = [sys.executable, "-m", "tests.fuzz.differential", str(former), str(new), "--json"]
    command += ["--pairs", str(PAIRS), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def changed(folder: Path, name: str, old: str, new: str) -> Path:
    """Copy the verifier, and change one line of it."""
    shutil.copytree(ROOT / "verifier" / "arx_verifier", folder / "verifier" / "arx_verifier")
    path = folder / "verifier" / "arx_verifier" / name
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    return folder


@pytest.mark.spec("11")
def test_a_tree_does_not_differ_from_itself() -> None:
    """Every kind of outcome occurs, and none differs."""
    code, result = compared(ROOT, ROOT)
    assert (code, result["differences"]) == (0, {})
    assert sum(result["outcomes"].values()) == PAIRS
    assert {"grant", "malformed", "unknown_caveat", "expired", "frozen", "revoked", "proof_invalid"} <= {
        *result["outcomes"]
    }


def test_a_wider_line_is_found(tmp_path: Path) -> None:
    """A call from another network is granted by the changed verifier alone; no option excuses that."""
    line = "if proven.conditions and (refused"
    wider = changed(tmp_path, "verification/evaluate.py", line, "if not proven.conditions and (refused")
    code, result = compared(ROOT, wider, "--expect", "network_not_allowed=grant")
    assert code == 1
    assert "network_not_allowed=grant" in result["unexpected"]
    for example in result["examples"]["network_not_allowed=grant"]:
        assert (example["former"][0], example["new"][0]) == ("network_not_allowed", "grant")


@pytest.mark.slow
def test_each_difference_is_kept_and_may_be_expected(tmp_path: Path) -> None:
    """A narrower line passes once its codes are named, and every pair is in the file."""
    line = "if proven.conditions and (refused"
    narrower = changed(
        tmp_path, "verification/evaluate.py", line, f"if not request.peer: return REQUEST_UNSEEN, None\n    {line}"
    )
    kept = tmp_path / "kept.jsonl"
    code, result = compared(ROOT, narrower, "--keep", str(kept))
    assert code == 1
    kinds = [json.loads(line)["kind"] for line in kept.read_text().splitlines()]
    assert len(kinds) == sum(result["differences"].values()) > 0
    options = [option for kind in set(kinds) for option in ("--expect", kind)]
    assert compared(ROOT, narrower, *options)[0] == 0
