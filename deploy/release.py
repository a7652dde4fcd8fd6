# SPDX-License-Identifier: Apache-2.0
"""Make a release from the commit of its version, twice, compare, sign and record it: ``make release VERSION=0.2.0``.

A tag or ``releases.toml`` names the commit.  Everything is built from clones of it, by its own ``deploy/wheels.py`` and
``deploy/image.py``; so no file of this checkout gets into a release.  The indexes of packages are all that it asks.
What it makes, and how to verify it, is in ``docs/verify-a-release.md``.
"""

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from inventory import SOURCES, install_wheels, sha256_of, write_bom, write_image_bom, write_json, write_licences

ROOT: Final = Path(__file__).resolve().parents[1]
TOOLS: Final = {"git": "git", "cosign": "cosign"}  # programs, with Debian's packages
IMAGE_TOOLS: Final = {"mmdebstrap": "mmdebstrap", "buildah": "buildah"}
SUMS: Final = "SHA256SUMS"
ARTEFACTS: Final = (".whl", ".tar.gz", ".oci.tar")  # each has an attestation


class Plan(NamedTuple):
    """What to make.

    Attributes:
        version: Of the release.
        commit: Its 40 digits.
        epoch: The commit's time, s since 1970.
        is_short: Only the wheels of this machine and in pure Python, once.
        has_image: Whether there is an image.
        left_out: Why the result is no release; empty for a release.
        tools: Versions of the tools, by name.
    """

    version: str
    commit: str
    epoch: int
    is_short: bool
    has_image: bool
    left_out: tuple[str, ...]
    tools: dict[str, str]

    @property
    def date(self) -> str:
        """The commit's time, as RFC 3339 has it."""
        return datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fail(problem: str, hint: str = "") -> NoReturn:
    """End with an error."""
    sys.exit(f"release: {problem}" + (f"\nhint: {hint}" if hint else ""))


def run(*command: str | Path, folder: Path = ROOT, **environment: str) -> str:
    """Run a program without the settings of ARx, and return what it wrote; end with its errors if it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ARX_", "PYTHON"))}
    # cosign would wait at a terminal for the password of a key that has none.
    words, given = [str(word) for word in command], {"COSIGN_PASSWORD": ""} | clean | {"PATH": path} | environment
    done = subprocess.run(words, cwd=folder, env=given, capture_output=True, text=True, check=False)
    if done.returncode:
        fail(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def require_tools(names: dict[str, str]) -> None:
    """End with what to install if a program is missing."""
    missing = [package for name, package in names.items() if shutil.which(name) is None]
    if missing:
        fail(f"not installed: {', '.join(missing)}", f"apt-get install --no-install-recommends {' '.join(missing)}")


def named_commit(version: str) -> str:
    """Return the commit that the tag of a version or ``releases.toml`` names; where both do, the same one."""
    releases = tomllib.loads((ROOT / "releases.toml").read_text(encoding="utf-8")).get("release", [])
    named = {"releases.toml": each["commit"] for each in releases if each["version"] == version}  # noqa: B035 - one
    if run("git", "tag", "--list", f"v{version}").strip():
        named[f"tag v{version}"] = run("git", "rev-parse", f"v{version}^{{commit}}").strip()
    if moving := [name for name, commit in named.items() if not re.fullmatch("[0-9a-f]{40}", commit)]:
        fail(f"{moving[0]}, version {version}: expected the 40 digits of a commit, got {named[moving[0]]!r}")
    if len(set(named.values())) > 1:
        fail(f"version {version}: expected one commit, got {named}", "correct releases.toml, or the tag")
    if not named:
        known = ", ".join(each["version"] for each in releases) or "none"
        fail(f"version {version}: expected a tag v{version} or one of releases.toml ({known})", "name its commit there")
    return next(iter(named.values()))


def check_commit(version: str, commit: str, *, is_named: bool) -> None:
    """End if a commit has another version, or is named and has no dated section in the changelog."""
    for name, source in SOURCES.items():
        project = tomllib.loads(run("git", "show", f"{commit}:./{source}/pyproject.toml"))["project"]
        if project["version"] != version:
            fail(f"{name} at {commit[:12]}: expected version {version}, got {project['version']}")
    date = run("git", "log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%d", commit, TZ="UTC").strip()
    sections = [line for line in run("git", "show", f"{commit}:CHANGELOG.md").splitlines() if line.startswith("## ")]
    if is_named and f"## {version}, {date}" not in sections:
        fail(f"CHANGELOG.md at {commit[:12]}: expected a section '{version}, {date}', got {sections[0][3:]!r}")


def clone_commit(plan: Plan, folder: Path) -> Path:
    """Return a clone of the commit, without a file that is not in it."""
    # A user's settings can change what is checked out: the ends of lines, filters.
    plain = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    run("git", "clone", "--quiet", "--shared", "--no-checkout", ROOT, folder, **plain)
    run("git", "checkout", "--quiet", plan.commit, folder=folder, **plain)
    if (dirty := run("git", "status", "--porcelain", "--ignored", folder=folder)) != "":
        fail(f"a clone of {plan.commit[:12]} is not clean:\n{dirty}")
    return folder


def write_inventory(plan: Plan, clone: Path, made: Path, work: Path) -> Path:
    """Write the SBOMs and the licences; return the Python of an environment with the wheels of the release."""
    python = Path()
    for name in SOURCES:
        python = install_wheels(name, plan.version, clone, made, work / f"env-{name}")
        write_bom(name, plan.version, plan.date, clone, made, python)
    write_licences(plan.version, made, python)
    return python


def write_statements(plan: Plan, clone: Path, made: Path) -> None:
    """Write what the release states of itself: OpenVEX, the predicate of SLSA v1, the manifest, and all hashes."""
    vex = tomllib.loads((clone / "deploy" / "openvex.toml").read_text(encoding="utf-8"))
    products = [{"@id": f"pkg:pypi/{name}@{plan.version}"} for name in SOURCES]
    head = {"@context": "https://openvex.dev/ns/v0.2.0", "@id": f"urn:arx:openvex:{plan.commit}"}
    statements = [each | {"products": products} for each in vex.pop("statements")]
    write_json(made / "openvex.json", head | vex | {"timestamp": plan.date, "version": 1, "statements": statements})
    source = {"name": "source", "digest": {"gitCommit": plan.commit}}
    lock = {"name": "uv.lock", "digest": {"sha256": sha256_of(clone / "uv.lock")}}
    build = {
        "buildType": "urn:arx:make-release:1",
        "externalParameters": {"version": plan.version, "short": plan.is_short},
        "internalParameters": {"SOURCE_DATE_EPOCH": str(plan.epoch), "tools": plan.tools},
        "resolvedDependencies": [source, lock],
    }
    write_json(
        made / "provenance.json",
        {"buildDefinition": build, "runDetails": {"builder": {"id": "urn:arx:deploy/release.py"}, "metadata": {}}},
    )
    facts: dict[str, Any] = {"schema": "arx/release/1", "version": plan.version, "commit": plan.commit, "dirty": False}
    facts |= {"date": plan.date, "complete": not plan.left_out, "left_out": plan.left_out, "tools": plan.tools}
    facts |= {"images": {file.name: write_image_bom(plan.version, plan.date, file) for file in made.glob("*.oci.tar")}}
    files = {file.name: {"sha256": sha256_of(file), "size": file.stat().st_size} for file in sorted(made.iterdir())}
    write_json(made / "manifest.json", facts | {"files": files})
    sums = "".join(f"{sha256_of(file)}  {file.name}\n" for file in sorted(made.iterdir()))
    (made / SUMS).write_text(sums, encoding="utf-8")


def build_release(plan: Plan, work: Path) -> tuple[Path, Path]:
    """Build all that is not signed, from a clone in a new folder.

    Returns:
        The folder of the files, and the Python of an environment with the wheels.
    """
    made = work / "made"
    made.mkdir(parents=True)
    clone = clone_commit(plan, work / "source")
    once = ("--short",) if plan.is_short else ("--once",)
    run(sys.executable, clone / "deploy" / "wheels.py", *once, folder=clone)
    for file in (clone / "dist").iterdir():
        shutil.copyfile(file, made / file.name)
    if plan.has_image:
        image = ("--short", f"--made={clone / 'dist'}", f"--out={made}")
        run(sys.executable, clone / "deploy" / "image.py", *image, folder=clone, SOURCE_DATE_EPOCH=str(plan.epoch))
    python = write_inventory(plan, clone, made, work)
    write_statements(plan, clone, made)
    return made, python


def compare_builds(first: Path, second: Path) -> None:
    """End if two builds differ in a name or a byte."""
    hashes = [{file.name: sha256_of(file) for file in made.iterdir()} for made in (first, second)]
    different = sorted(name for name in {**hashes[0], **hashes[1]} if hashes[0].get(name) != hashes[1].get(name))
    if different:
        fail(f"two builds differ: {', '.join(different)}")


def sign_release(plan: Plan, made: Path, keys: Path) -> None:
    """Sign the list of hashes, and attest provenance and SBOM of each artefact, with a key of this machine."""
    key = keys / "cosign.key"
    if not key.exists():
        keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        run("cosign", "generate-key-pair", folder=keys)
    shutil.copyfile(keys / "cosign.pub", made / "cosign.pub")
    options = ("--yes", f"--key={key}", "--tlog-upload=false")
    run("cosign", "sign-blob", *options, f"--output-signature={made / SUMS}.sig", made / SUMS)
    attestations = made / "attestations"
    attestations.mkdir()
    for file in sorted(file for file in made.iterdir() if file.name.endswith(ARTEFACTS)):
        predicates = {"slsaprovenance1": made / "provenance.json"}
        stem = file.name if file.name.endswith(".oci.tar") else f"{file.name.partition('-')[0]}-{plan.version}"
        predicates["cyclonedx"] = made / f"{stem}.cdx.json"
        for kind, predicate in predicates.items():
            signed = (f"--predicate={predicate}", f"--output-signature={attestations / file.name}.{kind}.json")
            run("cosign", "attest-blob", *options, f"--type={kind}", *signed, file)


def record_release(plan: Plan, made: Path, realm: Path, python: Path) -> None:
    """Record each hash in the log of a realm that the release's own wheels run; write the proofs."""
    (made / "log").mkdir()
    run(python, ROOT / "deploy" / "release_log.py", realm, plan.version, made / SUMS, made / "log", folder=made)


def tool_versions(programs: dict[str, str]) -> dict[str, str]:
    """Return the versions of Python, of ``deploy/wheels.txt``, and of Debian's packages of some programs."""
    lines = (ROOT / "deploy" / "wheels.txt").read_text("utf-8").splitlines()
    tools = {"python": platform.python_version()}
    for name in (line.partition("==")[0] for line in lines if not line.startswith("#")):
        tools[name] = importlib.metadata.version(name)
    if shutil.which("dpkg-query"):
        tools |= {name: run("dpkg-query", "-W", "-f", "${Version}", package) for name, package in programs.items()}
    return dict(sorted(tools.items()))


def make_plan(given: argparse.Namespace) -> Plan:
    """Return what to make; end if it cannot be made from here."""
    has_image = not (given.short or given.without_image)
    programs = TOOLS | (IMAGE_TOOLS if has_image else {})
    require_tools(programs)
    left_out = []
    if given.short:
        left_out.append("it has the wheels of this machine alone and no image, and was built once (--short)")
    elif given.without_image:
        left_out.append("it has no image (--without-image)")
    if given.commit:
        left_out.append(f"it is of {given.commit}, which is not named as the commit of {given.version} (--commit)")
    elif run("git", "status", "--porcelain").strip():
        fail("this checkout has changes", "commit them, or make the release from a fresh clone")
    commit = run("git", "rev-parse", f"{given.commit or named_commit(given.version)}^{{commit}}").strip()
    check_commit(given.version, commit, is_named=not given.commit)
    epoch = int(run("git", "log", "-1", "--format=%ct", commit))
    return Plan(given.version, commit, epoch, given.short, has_image, tuple(left_out), tool_versions(programs))


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A tool is missing, a check or a build failed, or two builds differ.
    """
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("version")
    parser.add_argument("--short", action="store_true", help="no release: for this machine alone, once, no image")
    parser.add_argument("--without-image", action="store_true", help="no release: all but the image")
    parser.add_argument("--commit", metavar="REV", help="no release: of another commit than the named one")
    parser.add_argument("--unsigned", action="store_true", help="sign and record nothing: that is done elsewhere")
    parser.add_argument("--keys", type=Path, metavar="DIR", default=Path.home() / ".arx-release", help="[%(default)s]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="[dist/VERSION]")
    given = parser.parse_args()
    out: Path = (given.out or ROOT / "dist" / given.version).resolve()
    if out.exists():
        fail(f"{out} exists", "move it away: a release is made into nothing")
    plan = make_plan(given)
    with tempfile.TemporaryDirectory(prefix="arx-release-") as folder:
        made, python = build_release(plan, Path(folder, "one"))
        if not plan.is_short:
            # What a user's machine may have otherwise must change no byte.
            os.environ |= {"TZ": "Asia/Tokyo", "LC_ALL": "C"}
            os.umask(0o077)
            compare_builds(made, build_release(plan, Path(folder, "two"))[0])
        if not given.unsigned:
            sign_release(plan, made, given.keys.resolve())
            record_release(plan, made, given.keys.resolve() / "realm", python)
        for file in made.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)  # nothing in it is a secret
        shutil.copytree(made, out)
    print((out / SUMS).read_text(encoding="utf-8") + f"in {out}")
    for part in plan.left_out:
        print(f"NO RELEASE: {part}")


if __name__ == "__main__":
    main()
