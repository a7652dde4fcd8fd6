# SPDX-License-Identifier: Apache-2.0
"""Root starts a realm, its gateway and `arx run` as a user without any privilege: all of it works."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.house.pages import ROOT
from tests.run.test_box import place_of, why_not

USER = "nobody"
SCRIPT = ROOT / "tests" / "run" / "ordinary_user.py"


def own_python(folder: Path) -> Path:
    """Copy this Python, which may be in a folder of root, to a folder; return its program."""
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, folder / "lib" / library.name, ignore=shutil.ignore_patterns("test", "__pycache__"))
    for shared in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        shutil.copy(shared, folder / "lib")
    program = folder / "bin" / "python"
    program.parent.mkdir()
    shutil.copy(os.path.realpath(sys.executable), program)
    return program


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
@pytest.mark.skipif(os.geteuid() == 0 and why_not(USER) is not None, reason=f"no box for {USER}")
def test_an_ordinary_user_runs_all_of_it() -> None:
    """
    A clone and a push pass in the box, and a push to main is refused.
    """
    own = [path for path in sys.path if path and not Path(path).is_relative_to(sys.base_prefix)]
    with place_of(USER) as folder, place_of(USER) as python:
        paths = os.pathsep.join(dict.fromkeys([str(ROOT), str(ROOT / "verifier"), *own]))
        environment = {"PATH": os.defpath, "HOME": str(folder), "PYTHONPATH": paths, "LC_ALL": "C"}
        done = subprocess.run(
            [own_python(python), SCRIPT, folder],
            cwd=folder,
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1", "LD_LIBRARY_PATH": str(python / "lib")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            user=USER,
            group="nogroup",
            extra_groups=[],
        )
    assert done.returncode == 0, done.stderr
    identity, text, *rest = done.stdout.splitlines()
    assert (identity, text) == (subprocess.check_output(["id", "-u", USER], text=True).strip(), "one"), done.stdout
    assert "refused by arx" in "".join(rest)
    assert rest[-1].split() == ["refs/heads/agent/login", "refs/heads/main"]
