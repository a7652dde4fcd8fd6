# SPDX-License-Identifier: Apache-2.0
"""What a release consists of: an SBOM (CycloneDX) of each distribution and of the image, and the licences."""

import email
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from zstandard import ZstdDecompressor

SOURCES: Final = {"arx-verifier": "verifier", "arx-caps": "."}  # distributions, with their folders
EXTRAS: Final = {"arx-verifier": (), "arx-caps": ("all", "grpc")}
STATUS: Final = "var/lib/dpkg/status"
METADATA: Final = re.compile(r".*\.dist-info/METADATA")


def sha256_of(file: Path) -> str:
    """Return the hash of a file, in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_json(file: Path, value: Any) -> None:
    """Write a value in one form."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def run(*command: str | Path, folder: Path) -> str:
    """Run a tool and return what it wrote; end with its errors if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"release: {' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def install_wheels(name: str, version: str, clone: Path, made: Path, environment: Path) -> Path:
    """Install wheels of a folder, with what ``uv.lock`` locks for one of them; return the Python.

    Args:
        name: The distribution.
        version: Of both distributions.
        clone: Checkout with the lock.
        made: The folder of the wheels.
        environment: A folder that does not exist.
    """
    uv, python = Path(sys.executable).with_name("uv"), environment / "bin" / "python"
    locked, asked = [f"--extra={extra}" for extra in EXTRAS[name]], Path(f"{environment}.txt")
    only = ("--quiet", "--frozen", f"--package={name}", "--no-dev", "--no-emit-workspace", f"--output-file={asked}")
    run(uv, "export", *only, *locked, folder=clone)
    run(uv, "venv", "--quiet", f"--python={sys.executable}", environment, folder=clone)
    install = (uv, "pip", "install", "--quiet", f"--python={python}")
    run(*install, "--require-hashes", "--requirement", asked, folder=environment)
    # By name from a folder, as a wheel that is named by file leaves its path in the environment.
    ours = sorted({f"arx-verifier=={version}", f"{name}=={version}"})
    run(*install, "--no-deps", "--no-index", f"--find-links={made}", *ours, folder=environment)
    return python


def write_bom(name: str, version: str, time: str, clone: Path, made: Path, python: Path) -> None:
    """Write the SBOM of a distribution, with the hashes of its files.

    Args:
        name: The distribution.
        version: Its version.
        time: The timestamp.
        clone: Checkout with its ``pyproject.toml``.
        made: The folder of its files, and of the SBOM.
        python: Of an environment that has it.
    """
    project = clone / SOURCES[name] / "pyproject.toml"
    bom = ("environment", "--output-reproducible", f"--pyproject={project}", python)
    read = json.loads(run(sys.executable, "-m", "cyclonedx_py", *bom, folder=clone))
    stem = name.replace("-", "_")
    files = [file for kind in (".whl", ".tar.gz") for file in sorted(made.glob(f"{stem}-*{kind}"))]
    read["metadata"]["timestamp"] = time
    read["metadata"]["component"]["purl"] = f"pkg:pypi/{name}@{version}"
    read["metadata"]["component"]["externalReferences"] = [
        {"type": "distribution", "url": file.name, "hashes": [{"alg": "SHA-256", "content": sha256_of(file)}]}
        for file in files
    ]
    write_json(made / f"{stem}-{version}.cdx.json", read)


def write_licences(version: str, made: Path, python: Path) -> None:
    """Write the licence of each package of an environment; end if one states none."""
    columns = ("--with-urls", "--with-system", "--order=name", "--format=json")
    tool = Path(sys.executable).with_name("pip-licenses")
    packages = json.loads(run(tool, f"--python={python}", *columns, folder=made))
    if unknown := [each["Name"] for each in packages if each["License"] in ("", "UNKNOWN")]:
        sys.exit(f"release: no licence is stated by {', '.join(unknown)}")
    rows = [
        "".join(f"| {each[column]} " for column in ("Name", "Version", "License", "URL")) + "|" for each in packages
    ]
    head = f"# Licences of arx-caps {version} and of its packages\n\n| package | version | licence | page |\n"
    (made / "licences.md").write_text(head + "| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n", encoding="utf-8")


def open_image(file: Path) -> tuple[str, list[bytes]]:
    """Return the digest of the image in an OCI archive, and its layers, unpacked."""
    with tarfile.open(file) as archive:
        members = {member.name.removeprefix("./"): member for member in archive.getmembers()}

        def read(name: str) -> bytes:
            opened = archive.extractfile(members[name])
            return opened.read() if opened else b""

        [entry] = json.loads(read("index.json"))["manifests"]
        layers = json.loads(read("blobs/" + entry["digest"].replace(":", "/")))["layers"]
        packed = [(layer["mediaType"], read("blobs/" + layer["digest"].replace(":", "/"))) for layer in layers]
        return entry["digest"], [unpack_zstd(data) if kind.endswith("+zstd") else data for kind, data in packed]


def unpack_zstd(data: bytes) -> bytes:
    """Return what was packed, by a tool that need not state the size, in one frame or more."""
    return ZstdDecompressor().stream_reader(data, read_across_frames=True).read()


def packages_of(layers: list[bytes]) -> Iterator[dict[str, str]]:
    """Yield a component of CycloneDX for each package of Debian and of Python in the layers of an image."""
    status, metadata = "", dict[str, str]()
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name == STATUS or METADATA.fullmatch(name):
                    opened = archive.extractfile(member)
                    text = opened.read().decode("utf-8", "replace") if opened else ""
                    status, metadata = (text, metadata) if name == STATUS else (status, metadata | {name: text})
    for paragraph in filter(None, status.split("\n\n")):
        fields = email.message_from_string(paragraph)
        purl = f"pkg:deb/debian/{fields['Package']}@{fields['Version']}?arch={fields['Architecture']}"
        yield {"type": "library", "name": fields["Package"], "version": fields["Version"], "purl": purl}
    for text in metadata.values():
        fields = email.message_from_string(text)
        name = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
        purl = f"pkg:pypi/{name}@{fields['Version']}"
        yield {"type": "library", "name": fields["Name"], "version": fields["Version"], "purl": purl}


def write_image_bom(version: str, time: str, image: Path) -> str:
    """Write the SBOM of an image beside it, and return the image's digest."""
    digest, layers = open_image(image)
    found = {each["purl"]: each | {"bom-ref": each["purl"]} for each in packages_of(layers)}
    purl = f"pkg:oci/arx@{digest.replace(':', '%3A')}"
    image_itself = {"type": "container", "bom-ref": purl, "name": "arx", "version": version, "purl": purl}
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    bom = head | {"metadata": {"timestamp": time, "component": image_itself}}
    write_json(Path(f"{image}.cdx.json"), bom | {"components": [found[key] for key in sorted(found)]})
    return digest
