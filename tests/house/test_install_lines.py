# SPDX-License-Identifier: Apache-2.0
"""Each line that installs ARx works in a checkout, and no page or hint names a package of an index."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.install_lines import PROJECTS, ROOT, extras_of, install_words, pages, project_of

SENTENCE = "Until the first release, type `pip install` in a checkout"


@pytest.mark.parametrize("page", list(pages()), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_installs_from_the_checkout(page: Path) -> None:
    """
    A name of ARx that belongs to no project in an index must not be installed from there; extras exist.
    """
    for words in install_words(page.read_text(encoding="utf-8")):
        for word in words:
            project, extras = project_of(word)
            assert not re.match(r"arx(-|\[|$)", word), f"pip install {word}"
            if project in PROJECTS:
                assert extras <= extras_of(project), f"pip install {word}"


def test_one_sentence_names_where_lines_are_typed() -> None:
    """
    A release changes this sentence alone.
    """
    assert [page.name for page in pages() if SENTENCE in page.read_text(encoding="utf-8")] == ["README.md"]


def test_no_message_names_a_package_of_an_index() -> None:
    """
    Hints and errors ask ``install_line``, which knows where this process was installed from.
    """
    sources = [*(ROOT / "arx_caps").rglob("*.py"), *(ROOT / "verifier" / "arx_verifier").rglob("*.py")]
    texts = {path.name: path.read_text(encoding="utf-8") for path in sources}
    named = [
        name
        for name, text in texts.items()
        if re.search(r"install\W{1,4}(?:\{\w+.quote\()?(?:f.)?arx-(?:caps|verifier)", text)
    ]
    assert named == ["installation.py"]


PROBE = "from arx_caps.installation import install_line; print(install_line('gateway'))"


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        (None, "pip install 'arx-caps[gateway]'"),
        ({"url": "file:///src/a%20b", "dir_info": {}}, "pip install '/src/a b[gateway]'"),
        ({"url": "file:///src/arx", "dir_info": {"editable": True}}, "pip install -e '/src/arx[gateway]'"),
        (
            {"url": "file:///w/arx_caps-0.2.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'arx-caps[gateway] @ file:///w/arx_caps-0.2.0-py3-none-any.whl'",
        ),
    ],
)
def test_a_hint_installs_from_where_this_came(tmp_path: Path, origin: dict[str, object] | None, line: str) -> None:
    """
    The hint names the checkout or the file that pip recorded.
    """
    info = tmp_path / "arx_caps-0.2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: arx-caps\nVersion: 0.2.0\n", encoding="utf-8")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; {PROBE}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == line
    assert shlex.split(line)[:2] == ["pip", "install"]
