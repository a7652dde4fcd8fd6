# SPDX-License-Identifier: Apache-2.0
"""Build the ``.deb`` and the ``.rpm`` of ``deploy/packages`` in ``dist``, twice, and compare them: ``make packages``.

Their files are the wheels that the image installs, in an environment of the system's own Python; nfpm packs them.
``python -m tests.release.packages`` installs the ``.deb`` in a fresh Debian, and starts its units.
"""

import argparse
import gzip
import hashlib
import os
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from image import MACHINE, PYTHON, WHEELS, gather_wheels
from wheels import git, run

ROOT: Final = Path(__file__).resolve().parents[1]
WORK: Final = ROOT / "build" / "packages"
HOME: Final = Path("usr/lib/arx")
NFPM: Final = ROOT / "deploy" / "packages" / "nfpm.yaml"
CHANGELOG: Final = ROOT / "deploy" / "packages" / "changelog"
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
LARGEST: Final = {".deb": 45_000_000, ".rpm": 45_000_000}  # bytes
SCRIPT: Final = f"""\
#!/{HOME}/bin/python3 -P
import sys
from arx_caps.cli.app import main
sys.exit(main())
"""


def install_wheels(site: Path) -> None:
    """Install the gathered wheels for the packages' Python, which need not be on this machine."""
    names = [wheel.name.split("-")[:2] for wheel in sorted(WHEELS.glob("*.whl"))]
    pins = [f"{name}=={version}" for name, version in names if name != "pip"]
    platforms = [f"--platform={tag}_{MACHINE}" for tag in ("manylinux2014", "manylinux_2_17", "manylinux_2_28")]
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    only = ("--no-index", f"--find-links={WHEELS}", "--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}")
    run(*pip, *only, "--implementation=cp", *platforms, f"--target={site}", *pins, folder=ROOT)
    shutil.rmtree(site / "bin")  # scripts with the path of this machine's Python


def make_root(root: Path, time: int) -> None:
    """Make the tree of ``/usr/lib/arx``, an environment of the system's Python.

    Args:
        root: The new folder that is ``/``.
        time: Of each file, s since 1970.
    """
    home = root / HOME
    site = home / "lib" / f"python{PYTHON}" / "site-packages"
    site.mkdir(parents=True)
    install_wheels(site)
    (home / "bin").mkdir()
    (home / "bin" / "python3").symlink_to(f"../../../bin/python{PYTHON}")
    (home / "bin" / "arx").write_text(SCRIPT, encoding="utf-8")
    (home / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n")
    for path in sorted(home.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or is_program(path) else 0o644)
        os.utime(path, (time, time), follow_symlinks=False)


def is_program(path: Path) -> bool:
    """Return whether a file is run by itself: our script, or the server of a wheel."""
    return path.parent.name == "bin" or path.name == "valkey-server"


def build_packages(folder: Path, version: str, time: int) -> list[Path]:
    """Build both packages, and return their files.

    Args:
        folder: A new one for them.
        version: Of the packages.
        time: Of each file, s since 1970.
    """
    shutil.rmtree(WORK / "root", ignore_errors=True)
    make_root(WORK / "root", time)
    (WORK / "changelog.gz").write_bytes(gzip.compress(CHANGELOG.read_bytes(), 9, mtime=0))
    folder.mkdir(parents=True)
    return [pack(kind, folder, version, time) for kind in ("deb", "rpm")]


def pack(kind: str, folder: Path, version: str, time: int) -> Path:
    """Pack the tree that was made, and return the package's file.

    Args:
        kind: ``deb`` or ``rpm``.
        folder: The folder of the file.
        version: Of the package.
        time: Of each file, s since 1970.
    """
    before = set(folder.iterdir())
    given = {"ARX_ARCH": ARCHITECTURES[MACHINE], "ARX_VERSION": version}
    nfpm = ("nfpm", "package", f"--config={NFPM}", f"--packager={kind}", f"--target={folder}")
    run(*nfpm, folder=ROOT, SOURCE_DATE_EPOCH=str(time), **given)
    [made] = set(folder.iterdir()) - before
    return made


def check_changelog(version: str) -> None:
    """End if the newest entry of the packages' changelog is of another version."""
    first = CHANGELOG.read_text(encoding="utf-8").partition("\n")[0]
    if not re.match(rf"arx \({re.escape(version)}-1\) ", first):
        sys.exit(f"packages: deploy/packages/changelog: expected an entry of {version}-1 first, got {first!r}")


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A tool is missing, a build or a check failed, or two builds differ.
    """
    parser = argparse.ArgumentParser(prog="make packages", description=__doc__)
    parser.add_argument("--short", action="store_true", help="build once: two builds are compared elsewhere")
    parser.add_argument("--made", type=Path, metavar="DIR", help="folder with the wheels of ARx [they are built]")
    parser.add_argument("--out", type=Path, metavar="DIR", default=ROOT / "dist", help="folder of the packages [dist]")
    given = parser.parse_args()
    time = int(os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct").strip())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    check_changelog(version)
    gather_wheels(given.made, str(time))
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as name:
        made = build_packages(Path(name, "one"), version, time)
        again = [] if given.short else build_packages(Path(name, "two"), version, time)
        for first, second in zip(made, again, strict=False):
            if first.read_bytes() != second.read_bytes():
                sys.exit(f"packages: two builds differ: {first.name}")
        given.out.mkdir(parents=True, exist_ok=True)
        for old in (*given.out.glob("arx_*.deb"), *given.out.glob("arx-*.rpm")):
            old.unlink()
        for file in made:
            if (size := file.stat().st_size) > LARGEST[file.suffix]:
                sys.exit(f"packages: {file.name}: expected at most {LARGEST[file.suffix]} bytes, got {size}")
            kept = Path(shutil.copyfile(file, given.out / file.name))
            print(f"{hashlib.sha256(kept.read_bytes()).hexdigest()}  {size:>9}  {kept}")


if __name__ == "__main__":
    main()
