# SPDX-License-Identifier: Apache-2.0
"""Build the image of ``Dockerfile`` on a Debian machine, twice, compare and check it: ``make image``.

No registry and no container engine is needed: mmdebstrap makes the base from Debian's packages, and buildah builds on
it.  The result is one file, an OCI layout that ``docker load``, ``podman load`` and ``skopeo copy oci-archive:`` read.
"""

import argparse
import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

from wheels import MANYLINUX, build_wheels, git, run

ROOT: Final = Path(__file__).resolve().parents[1]
WORK: Final = ROOT / "build" / "image"
WHEELS: Final = WORK / "wheels"  # what Dockerfile copies
BASE: Final = WORK / "base"  # an OCI layout, kept for `--short`
EXTRAS: Final = ("mint", "gateway", "grpc", "embedded", "postgres")  # as in Dockerfile
PYTHON: Final = "3.13"  # of both bases
LARGEST: Final = 80_000_000  # bytes, packed
MACHINE: Final = platform.machine()
DEBIAN: Final = (
    "deb http://deb.debian.org/debian trixie main",
    "deb http://deb.debian.org/debian trixie-updates main",
    "deb http://deb.debian.org/debian-security trixie-security main",
)
TOOLS: Final = {"mmdebstrap": "mmdebstrap", "buildah": "buildah", "/usr/lib/podman/netavark": "netavark"}
# No file of the base is newer, so its bytes depend on Debian's packages alone, and not on a commit.
BASE_TIME: Final = "315532800"  # 1980, the oldest that a zip file can name


def require_tools() -> None:
    """End with what to install, or to be, if this machine cannot build images."""
    missing = [package for program, package in TOOLS.items() if shutil.which(program) is None]
    if missing:
        packages = " ".join(missing)
        sys.exit(f"image: not installed: {packages}\nhint: apt-get install --no-install-recommends {packages}")
    if os.geteuid() != 0:
        sys.exit("image: it must run as root, which makes a system's root and enters it\nhint: sudo make image")


def gather_wheels(made: Path | None, time: str) -> None:
    """Write the wheels that the image installs: ours, each package of ``uv.lock`` by its hash, and pip.

    Args:
        made: A folder with our wheels; they are built when omitted.
        time: Of each file in a wheel, s since 1970.
    """
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    if made is None:
        own = build_wheels((f"{MANYLINUX}{MACHINE}",), time)
    else:
        found = [*made.glob("arx_caps-*.whl"), *made.glob(f"arx_verifier-*{MANYLINUX}{MACHINE}.whl")]
        own = {wheel.name: wheel.read_bytes() for wheel in found}
    if len(own) != 2:
        sys.exit(
            f"image: {made}: expected a wheel of arx-caps and one of arx-verifier for {MACHINE}, got {sorted(own)}"
        )
    for name, content in own.items():
        (WHEELS / name).write_bytes(content)
    locked = WORK / "requirements.txt"
    export = ("uv", "export", "--quiet", "--frozen", "--package=arx-caps", "--no-dev", "--no-emit-workspace")
    run(*export, *(f"--extra={extra}" for extra in EXTRAS), f"--output-file={locked}", folder=ROOT)
    platforms = [f"--platform={tag}_{MACHINE}" for tag in ("manylinux2014", "manylinux_2_17", "manylinux_2_28")]
    fetch = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
    only = ("--only-binary=:all:", "--require-hashes", f"--python-version={PYTHON}", *platforms, f"--dest={WHEELS}")
    run(*fetch, *only, "-r", locked, "-r", ROOT / "deploy" / "image.txt", folder=ROOT)


def buildah(storage: Path, *words: str | Path) -> None:
    """Run buildah with a storage of its own, isolated by ``chroot``, as containers may not start containers."""
    roots = (f"--root={storage}/root", f"--runroot={storage}/run")
    run("buildah", *roots, *words, folder=ROOT, BUILDAH_ISOLATION="chroot", STORAGE_DRIVER="vfs")


def build_base(folder: Path) -> Path:
    """Return an OCI layout with Debian's packages that Python needs, made anew.

    Args:
        folder: An empty one for it, and for what is made on the way.
    """
    keep = [f"path-exclude=/usr/share/{part}/*" for part in ("doc", "info", "locale", "man")]
    keep += ["path-include=/usr/share/doc/*/copyright"]
    # Dockerfile compiles the modules, with files that depend on no time; and no name of this machine goes along.
    plain = 'find "$1/usr" -type d -name __pycache__ -prune -exec rm -r {} +'
    plain += ' && cd "$1/etc" && rm -f resolv.conf hostname hosts'
    command = ["mmdebstrap", "--quiet", "--variant=essential", "--include=python3,ca-certificates"]
    command += [f"--dpkgopt={option}" for option in keep]
    command += ["--skip=output/dev", f"--customize-hook={plain}"]
    run(*command, "trixie", folder / "base.tar", *DEBIAN, folder=folder, SOURCE_DATE_EPOCH=BASE_TIME)
    (folder / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n", encoding="utf-8")
    return build_layout(folder, folder / "Dockerfile", folder, BASE_TIME)


def build_layout(folder: Path, file: Path, context: Path, time: str, **arguments: str) -> Path:
    """Build a Dockerfile, and return the OCI layout.

    Args:
        folder: For the layout and buildah's storage.
        file: The Dockerfile.
        context: The folder whose files it copies.
        time: Of each file in the layers, s since 1970.
        arguments: Its ``ARG`` by name.
    """
    layout, name = folder / "layout", "localhost/arx"
    limits = (
        "--ulimit=nofile=20000:20000",
        "--ulimit=nproc=90000:90000",
    )  # it asks for more than this machine may have
    given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    try:
        build = ("build", "--quiet", "--network=host", "--no-cache", *limits, f"--timestamp={time}", *given)
        buildah(folder, *build, f"--file={file}", f"--tag={name}", context)
        packed = (
            "--compression-format=zstd",
            "--compression-level=19",
        )  # a quarter smaller than gzip; Docker 23 reads it
        buildah(folder, "push", "--quiet", *packed, name, f"oci:{layout}:latest")
    finally:
        shutil.rmtree(folder / "root", ignore_errors=True)
    return layout


class Layout:
    """An OCI layout with one image.

    Args:
        folder: Its folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = json.loads((folder / "index.json").read_bytes())
        [self.entry] = self.index["manifests"]
        self.manifest = json.loads(self.blob(self.entry["digest"]).read_bytes())

    @property
    def digest(self) -> str:
        """The image's digest, ``sha256:`` and hexadecimal digits."""
        return str(self.entry["digest"])

    @property
    def size(self) -> int:
        """Bytes of the packed layers."""
        return sum(layer["size"] for layer in self.manifest["layers"])

    def blob(self, digest: str) -> Path:
        """Return the file of a digest."""
        return self.folder / "blobs" / Path(*digest.split(":"))

    def set_in_config(self, **members: Any) -> None:
        """Set members of the configuration of the image's processes, such as ``Healthcheck``."""
        content = json.loads(self.blob(self.manifest["config"]["digest"]).read_bytes())
        content["config"] |= members
        self.manifest["config"] |= self._replace(self.manifest["config"]["digest"], content)
        self.entry |= self._replace(self.digest, self.manifest)
        (self.folder / "index.json").write_bytes(_json(self.index))

    def _replace(self, digest: str, content: dict[str, Any]) -> dict[str, Any]:
        self.blob(digest).unlink()
        data = _json(content)
        new = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blob(new).write_bytes(data)
        return {"digest": new, "size": len(data)}

    def pack(self, file: Path, time: int) -> None:
        """Write the layout as one file.

        Args:
            file: The file.
            time: Of each member, s since 1970.
        """

        def same(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime, member.mode = time, 0o755 if member.isdir() else 0o644
            return member

        with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as archive:
            for path in sorted(self.folder.rglob("*")):
                archive.add(path, path.relative_to(self.folder), recursive=False, filter=same)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def healthcheck() -> dict[str, Any]:
    """Return the ``HEALTHCHECK`` of ``Dockerfile``, which buildah drops from an OCI image, and Docker reads there."""
    [line] = [line for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines() if line.startswith("HEALTHCHECK ")]
    options, _, command = line.removeprefix("HEALTHCHECK ").partition(" CMD ")
    seconds = dict(word.removeprefix("--").removesuffix("s").split("=") for word in shlex.split(options))
    named = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod"}
    return {"Test": ["CMD", *json.loads(command)]} | {named[key]: int(value) * 10**9 for key, value in seconds.items()}


def build_image(folder: Path, base: Path, time: str, **arguments: str) -> Layout:
    """Return the image of ``Dockerfile``.

    Args:
        folder: An empty one for it.
        base: OCI layout of its base.
        time: Of each file, s since 1970.
        arguments: Its ``ARG`` by name.
    """
    layout = Layout(build_layout(folder, ROOT / "Dockerfile", ROOT, time, BASE=f"oci:{base}:latest", **arguments))
    layout.set_in_config(Healthcheck=healthcheck())
    return layout


def build_twice(out: Path, time: str, *, is_short: bool) -> Path:
    """Build base and image, twice; end if they differ or are too large, and return the image's file.

    Args:
        out: The folder of the file.
        time: Of each file, s since 1970.
        is_short: Build once, on the base that is kept.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    commit = git("rev-parse", "HEAD").strip() + ("-dirty" if git("status", "--porcelain").strip() else "")
    with tempfile.TemporaryDirectory(dir=WORK) as name:
        made: list[tuple[str, Layout]] = []
        for turn in range(1 if is_short else 2):
            first, second = Path(name, f"base-{turn}"), Path(name, f"image-{turn}")
            first.mkdir()
            second.mkdir()
            if not (is_short and BASE.exists()):
                shutil.rmtree(BASE, ignore_errors=True)
                build_base(first).rename(BASE)
            made.append((Layout(BASE).digest, build_image(second, BASE, time, VERSION=version, COMMIT=commit)))
        if len({(base, image.digest) for base, image in made}) != 1:
            sys.exit(f"image: two builds differ: base and image {[(base, image.digest) for base, image in made]}")
        base, image = made[0]
        if image.size > LARGEST:
            sys.exit(f"image: expected at most {LARGEST} bytes packed, got {image.size}")
        file = out / f"arx-{version}-{MACHINE}.oci.tar"
        out.mkdir(parents=True, exist_ok=True)
        image.pack(file, int(time))
    print(f"{image.digest}  {image.size:>9}  {file}\nbase {base}")
    return file


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A tool is missing, a build failed, the image is too large, or two builds differ.
    """
    parser = argparse.ArgumentParser(prog="make image", description=__doc__)
    parser.add_argument("--short", action="store_true", help="once, and on the base of the last build")
    parser.add_argument(
        "--wheels", action="store_true", help="only gather what Dockerfile copies, for `docker build .`"
    )
    parser.add_argument("--made", type=Path, metavar="DIR", help="folder with the wheels of ARx [they are built]")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=ROOT / "dist", help="folder of the image's file [dist]"
    )
    given = parser.parse_args()
    time = os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct").strip()
    if not given.wheels:
        require_tools()
    run("hadolint", "Dockerfile", folder=ROOT)
    gather_wheels(given.made, time)
    if not given.wheels:
        build_twice(given.out, time, is_short=given.short)


if __name__ == "__main__":
    main()
