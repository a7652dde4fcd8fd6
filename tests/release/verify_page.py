# SPDX-License-Identifier: Apache-2.0
"""The six commands of docs/verify-a-release.md, on a release, and after each change of one byte.

The release is that of ``RELEASE_DIR``; else a short one, without an image, is made from the last commit.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.pages import ROOT, blocks
from tests.release.making import TOOL, clone_checkout, make_release
from tests.servers import child, free_ports, listens, until

PAGE = (ROOT / "docs" / "verify-a-release.md").read_text(encoding="utf-8")
COMMANDS = [block.text for block in blocks(PAGE) if block.language == "sh" and "not run" not in block.before]
SIGNATURE, HASHES, PROVENANCE, COMPONENTS, LOG, IMAGE = COMMANDS


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the keys of a release that is made here."""
    return tmp_path_factory.mktemp("keys") / "keys"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    """A release."""
    if "RELEASE_DIR" in os.environ:
        return Path(os.environ["RELEASE_DIR"]).resolve()
    folder = tmp_path_factory.mktemp("release")
    checkout, out = clone_checkout(folder / "clone"), folder / "out"
    for stray in ("dist/arx_caps-9.9.9-py3-none-any.whl", "verifier/arx_verifier/stray.py", "arx_caps/stray.so"):
        (checkout / stray).parent.mkdir(exist_ok=True)
        (checkout / stray).write_bytes(b"stray")
    done = make_release(checkout, "--short", "--commit=HEAD", f"--keys={keys}", f"--out={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("NO RELEASE: ") == 2
    return out


@pytest.fixture
def release(made: Path, tmp_path: Path) -> Path:
    """A copy of the release, to be changed, beside both keys, as a user has them from elsewhere."""
    copied = shutil.copytree(made, tmp_path / "release")
    shutil.move(copied / "log" / "log.key", copied / "log.key")
    return copied


def verify(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Type a command of the page in the folder of a release."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    given = os.environ | {"PATH": path, "COSIGN_PASSWORD": ""} | variables
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=given, capture_output=True, text=True, check=False, timeout=120
    )


def change(file: Path, at: int | None = None) -> None:
    """Change one byte of a file, the middle one if not given, to another that is no white space."""
    content = bytearray(file.read_bytes())
    at = len(content) // 2 if at is None else at
    content[at] = ord("A") if content[at] != ord("A") else ord("B")
    file.write_bytes(content)


def artefacts(folder: Path) -> list[str]:
    """Return the names of what is installed or built from."""
    return sorted(path.name for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz", ".oci.tar")))


def test_the_commands_verify_each_artefact(release: Path) -> None:
    """
    Each of the commands exits with 0 for each artefact, and the log has its hash.
    """
    assert len(artefacts(release)) >= 5
    for command in (SIGNATURE, HASHES):
        done = verify(command, release)
        assert done.returncode == 0, done.stderr
    for name in artefacts(release):
        for command in (PROVENANCE, COMPONENTS, LOG):
            done = verify(command, release, FILE=name)
            assert done.returncode == 0, f"{name}\n{command}\n{done.stdout}{done.stderr}"


def test_the_signature_covers_the_list(release: Path) -> None:
    """
    A changed byte of the list, of its signature or of the key: not verified.
    """
    for name in ("SHA256SUMS", "SHA256SUMS.sig", "cosign.pub"):
        kept = (release / name).read_bytes()
        change(release / name)
        assert verify(SIGNATURE, release).returncode != 0, name
        (release / name).write_bytes(kept)
    assert verify(SIGNATURE, release).returncode == 0


def test_the_list_has_each_file(release: Path) -> None:
    """
    The list names all files of the folder but itself and what was signed later; a changed byte of any is found.
    """
    listed = {line.split("  ")[1] for line in (release / "SHA256SUMS").read_text().splitlines()}
    files = {path.name for path in release.iterdir() if path.is_file()}
    assert files - listed == {"SHA256SUMS", "SHA256SUMS.sig", "cosign.pub", "log.key"}
    for name in sorted(listed):
        kept = (release / name).read_bytes()
        change(release / name)
        done = verify(HASHES, release)
        assert done.returncode != 0, name
        assert f"{name}: FAILED" in done.stdout
        (release / name).write_bytes(kept)


@pytest.mark.parametrize(("command", "kind"), [(PROVENANCE, "slsaprovenance1"), (COMPONENTS, "cyclonedx")])
def test_a_statement_is_of_these_bytes(release: Path, command: str, kind: str) -> None:
    """
    A changed byte of an artefact, its statement or the key, or another artefact's statement: not verified.
    """
    names = artefacts(release)
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        statement = release / "attestations" / f"{name}.{kind}.json"
        for file in (release / name, statement, release / "cosign.pub"):
            kept = file.read_bytes()
            change(file)
            assert verify(command, release, FILE=name).returncode != 0, file.name
            file.write_bytes(kept)
        kept = statement.read_bytes()
        shutil.copy(statement.with_name(f"{other}.{kind}.json"), statement)
        assert verify(command, release, FILE=name).returncode != 0, name
        statement.write_bytes(kept)


def test_the_log_has_these_bytes(release: Path) -> None:
    """
    A changed byte of an artefact, its proof or the log's key, or another artefact's proof: not verified.
    """
    names = artefacts(release)
    name, other = names[0], names[1]
    proof = release / "log" / f"{name}.tlog-proof"
    for file in (release / name, proof, release / "log.key"):
        kept = file.read_bytes()
        change(file)
        assert verify(LOG, release, FILE=name).returncode != 0, file.name
        file.write_bytes(kept)
    shutil.copy(proof.with_name(f"{other}.tlog-proof"), proof)
    assert verify(LOG, release, FILE=name).returncode != 0


def test_no_file_of_the_checkout_is_in_it(release: Path) -> None:
    """
    What lay in `dist`, or beside the sources, before it was made: in no artefact.
    """
    for name in artefacts(release):
        opened = zipfile.ZipFile(release / name).namelist() if name.endswith(".whl") else []
        if name.endswith(".tar.gz"):
            with tarfile.open(release / name) as archive:
                opened = archive.getnames()
        assert opened or name.endswith(".oci.tar")
        assert not [member for member in (*opened, name) if "stray" in member or "9.9.9" in member]


def test_the_manifest_has_what_was_made(release: Path) -> None:
    """
    It names the commit, a clean tree, each file with its hash, and all that makes a try no release.
    """
    manifest = json.loads((release / "manifest.json").read_text())
    assert manifest["dirty"] is False
    assert manifest["complete"] is (manifest["left_out"] == [])
    for name, facts in manifest["files"].items():
        content = (release / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    predicate = json.loads((release / "provenance.json").read_text())
    source = predicate["buildDefinition"]["resolvedDependencies"][0]
    assert source["digest"]["gitCommit"] == manifest["commit"]
    everything = [path.read_bytes() for path in release.rglob("*") if path.suffix in (".json", ".md", ".sig")]
    assert not [content for content in everything if str(ROOT).encode() in content or b"/tmp/" in content]


def write_image(folder: Path) -> None:
    """Put an image with one file into a release that has none, for the sixth command."""
    blobs, layer = dict[str, bytes](), io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("hello"))

    def add(kind: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    packed = add("layer.v1.tar", layer.getvalue())
    root = {"type": "layers", "diff_ids": [packed["digest"]]}
    config = add(
        "config.v1+json", json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": root}).encode()
    )
    kind = "application/vnd.oci.image.manifest.v1+json"
    content = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [packed]}
    entry = add("manifest.v1+json", json.dumps(content).encode())
    files = {f"blobs/sha256/{digest}": content for digest, content in blobs.items()}
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    name = "arx-0.0.0.oci.tar"
    with tarfile.open(folder / name, "w") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    bom = "import sys, inventory, pathlib; print(inventory.write_image_bom('0.0.0', '', pathlib.Path(sys.argv[1])))"
    done = subprocess.run([TOOL, "-c", bom, folder / name], cwd=ROOT / "deploy", capture_output=True, check=True)
    assert done.stdout.decode().strip() == entry["digest"]
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["images"] = {name: entry["digest"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A registry on loopback, by its address, and the folder of its files."""
    server = shutil.which("docker-registry")
    assert server, "install docker-registry and skopeo"
    [port] = free_ports(1)
    files = tmp_path / "registry"
    config = f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {files}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    (tmp_path / "registry.yml").write_text(config)
    command = [server, "serve", tmp_path / "registry.yml"]
    with child(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: listens(port))
        yield f"127.0.0.1:{port}", files
        process.terminate()


def test_the_image_in_a_registry_is_signed(
    release: Path, keys: Path, registry: tuple[str, Path], tmp_path: Path
) -> None:
    """
    What is pulled by its digest is what was signed: a changed byte of a blob, or another key, is found.
    """
    if not json.loads((release / "manifest.json").read_text())["images"]:
        write_image(release)
    address, files = registry
    key = keys / "cosign.key" if keys.exists() else Path(os.environ["RELEASE_KEYS"], "cosign.key")
    publish = [TOOL, ROOT / "deploy/publish.py", release, f"{address}/arx", f"--key={key}", "--plain-http"]
    done = subprocess.run(publish, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    image = done.stdout.strip()
    # A registry on loopback has no TLS.
    command = IMAGE.replace("cosign verify ", "cosign verify --allow-http-registry ")
    command = command.replace("skopeo copy ", "skopeo copy --src-tls-verify=false ")

    def pull() -> int:
        shutil.rmtree(release / "image", ignore_errors=True)
        return verify(command, release, IMAGE=image).returncode

    assert pull() == 0
    for kind in ("slsaprovenance1", "cyclonedx", "openvex"):
        options = f"--allow-http-registry --key cosign.pub --insecure-ignore-tlog --type {kind}"
        done = verify(f'cosign verify-attestation {options} "$IMAGE"', release, IMAGE=image)
        assert done.returncode == 0, done.stderr
    config = json.loads((release / "image" / "manifest.json").read_text())["config"]["digest"]
    for digest in (image.rpartition("@")[2], config):
        [blob] = files.rglob(f"{digest.removeprefix('sha256:')}/data")
        kept = blob.read_bytes()
        change(blob)
        assert pull() != 0, digest
        blob.write_bytes(kept)
    assert pull() == 0
    change(release / "cosign.pub")
    assert pull() != 0
