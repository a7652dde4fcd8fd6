# SPDX-License-Identifier: Apache-2.0
"""``releases.toml`` names the commits of the releases, each with its version, its changelog and its date."""

import subprocess
import tomllib

from tests.house.pages import ROOT

FILE = tomllib.loads((ROOT / "releases.toml").read_text(encoding="utf-8"))
SECTIONS = [line for line in (ROOT / "CHANGELOG.md").read_text("utf-8").splitlines() if line.startswith("## ")]


def git(*words: str) -> str:
    """Return what git writes about this clone."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


def test_each_release_is_a_commit_of_its_version() -> None:
    """
    Its commit is behind this one, and both distributions have its version there; a tag names the same commit.
    """
    for release in FILE.get("release", []):
        assert set(release) == {"version", "commit", "date"}
        version, commit = release["version"], release["commit"]
        assert git("merge-base", commit, "HEAD").strip() == commit
        for project in ("pyproject.toml", "verifier/pyproject.toml"):
            assert tomllib.loads(git("show", f"{commit}:{project}"))["project"]["version"] == version
        assert f"## {version}, {release['date']}\n" in git("show", f"{commit}:CHANGELOG.md")
        if git("tag", "--list", f"v{version}"):
            assert git("rev-parse", f"v{version}^{{commit}}").strip() == commit


def test_the_changelog_has_the_same_releases() -> None:
    """
    The newest first, with the date of each; what is not released yet is above them.
    """
    releases = [f"## {each['version']}, {each['date']}" for each in reversed(FILE.get("release", []))]
    dated = [section for section in SECTIONS if not section.endswith("nreleased")]
    # The commit of a release comes before the one that names it: then alone the changelog has one more.
    assert dated in (releases, [*dated[:1], *releases])
    assert SECTIONS[len(SECTIONS) - len(dated) :] == dated


def test_the_section_of_a_release_stays_as_it_was() -> None:
    """
    A change after the commit of a release is in the section above it: move an entry that is not.
    """

    def section(text: str, title: str) -> str:
        return text.partition(f"\n{title}\n")[2].partition("\n## ")[0].rstrip()

    now = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for release in FILE.get("release", []):
        title = f"## {release['version']}, {release['date']}"
        assert section(now, title) == section(git("show", f"{release['commit']}:CHANGELOG.md"), title)
