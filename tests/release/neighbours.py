# SPDX-License-Identifier: Apache-2.0
"""Play the demos with parts of two versions: ``python -m tests.release.neighbours``.

The wheels of the last release, from the commit in ``releases.toml``, and those of the last commit are each installed in
an environment of their own.  One part after another is of the release, while the others are not, and the reverse: mint,
verifier, agent, operator's command line.  Each step of the demos must come out as with one version.
"""

import argparse
import os
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from subprocess import CalledProcessError, run
from typing import Any, ClassVar, Final

import arx_caps.demo.realm as demo
from arx_caps.demo.job import run_job
from arx_caps.demo.memory import run_memory
from tests.house.pages import ROOT
from tests.release.making import TOOL, clone_checkout, git

PARTS: Final = {  # by the module of the process that a demo starts
    "arx_caps.cli": "mint",
    "arx_caps.demo.service": "verifier",
    "arx_caps.demo.orchestrator": "agent",  # with its worker
    "arx_caps.demo.memory_agent": "agent",
}
# What is of the release.  Each pair of parts meets in both directions.
MIXES: Final = (
    ("mint",),
    ("verifier", "agent", "operator"),
    ("verifier",),
    ("mint", "agent", "operator"),
    ("agent",),
    ("mint", "verifier", "operator"),
)


class MixedRealm(demo.DemoRealm):
    """A demo's realm whose parts run in several environments.

    Attributes:
        pythons: The Python of each part.
    """

    pythons: ClassVar[dict[str, Path]] = {}

    def arx(self, *words: str | Path) -> str:
        """Run ``arx`` as the operator and return what it wrote."""
        command = [self.pythons["operator"], "-m", "arx_caps.cli", *words, "--quiet"]
        return run(command, capture_output=True, text=True, check=True, env=self.environment).stdout

    def start(self, *words: str | Path, python: str | Path = "", name: str = ""):  # type: ignore[no-untyped-def]
        """Start a process of a part."""
        return super().start(*words, python=self.pythons[PARTS[str(words[1])]], name=name)


def last_release() -> tuple[str, str]:
    """Return version and commit of the last release, or of the last commit before there is one."""
    releases = tomllib.loads((ROOT / "releases.toml").read_text(encoding="utf-8")).get("release", [])
    if releases:
        return releases[-1]["version"], releases[-1]["commit"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["version"], git(ROOT, "rev-parse", "HEAD").strip()


def install_commit(commit: str, folder: Path) -> Path:
    """Build the wheels of a commit, install them in an environment, and return its Python."""
    clone, python = clone_checkout(folder / "clone"), folder / "env" / "bin" / "python"
    git(clone, "checkout", "--quiet", commit)
    uv = TOOL.with_name("uv")
    for command in (
        [TOOL, clone / "deploy" / "wheels.py", "--short"],
        [uv, "venv", "--quiet", f"--python={sys.executable}", folder / "env"],
    ):
        run(command, cwd=clone, check=True, stdout=sys.stderr)
    [verifier], [caps] = (clone / "dist").glob("arx_verifier-*manylinux*"), (clone / "dist").glob("arx_caps-*.whl")
    run([uv, "pip", "install", "--quiet", f"--python={python}", verifier, f"{caps}[all]"], cwd=folder, check=True)
    where = run(
        [python, "-c", "import arx_caps; print(arx_caps.__file__)"], cwd=folder, capture_output=True, check=True
    )
    assert where.stdout.decode().startswith(str(folder))
    return python


def play(of_release: tuple[str, ...], release: Path, today: Path) -> list[str]:
    """Play both demos with some parts of the release; return the steps that came out otherwise, twice.

    On a loaded machine, a step can come too late; versions that do not work together fail the second time as well.
    """
    MixedRealm.pythons = {part: release if part in of_release else today for part in (*PARTS.values(), "operator")}
    wrong = []
    for run_demo in (run_job, run_memory):
        wrong += failures_of(run_demo) and failures_of(run_demo)
    return wrong


def failures_of(run_demo: Callable[..., dict[str, Any]]) -> list[str]:
    """Play a demo; return the steps that came out otherwise, or the error that ended it."""
    try:
        return list(run_demo(lambda line: print(f"    {line}", file=sys.stderr))["not_as_expected"])
    except (CalledProcessError, RuntimeError, StopIteration, ValueError) as error:
        return [f"{run_demo.__name__}: {error!r}\n{getattr(error, 'stderr', '')}"]


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A step came out otherwise than with one version.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.release.neighbours", description=__doc__)
    parser.add_argument("--mixes", type=int, default=len(MIXES), metavar="N", help="only the first N [%(default)s]")
    mixes = MIXES[: parser.parse_args().mixes]
    demo.DemoRealm = MixedRealm  # type: ignore[misc]
    version, commit = last_release()
    head = git(ROOT, "rev-parse", "HEAD").strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    print(f"release {version} at {commit[:12]}, and {project['version']} at {head[:12]}")
    if version == project["version"]:
        print(f"{version} is compared with the last commit: there is no second release yet")
    failed, before = [], Path.cwd()
    with tempfile.TemporaryDirectory(prefix="arx-neighbours-") as folder:
        release = install_commit(commit, Path(folder, "release"))
        today = install_commit(head, Path(folder, "today")) if head != commit else release
        os.chdir(folder)  # a Python in this checkout would import its modules
        for mix in mixes:
            wrong = play(mix, release, today)
            print(f"of the release: {', '.join(mix)}: {wrong or 'as with one version'}", flush=True)
            failed += wrong
        os.chdir(before)
    if failed:
        sys.exit(f"neighbours: {len(failed)} steps came out otherwise")


if __name__ == "__main__":
    main()
