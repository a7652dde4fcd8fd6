# SPDX-License-Identifier: Apache-2.0
"""The site of the documentation shows the pages of the repository; ``make check`` builds it and checks its links."""

import pytest

from tests.house.site import ELSEWHERE, ROOT, on_page_markdown


class Page:
    """A page as MkDocs passes it."""

    def __init__(self, site: str) -> None:
        self.file = self
        self.src_uri = site


@pytest.mark.parametrize(
    ("site", "written", "shown"),
    [
        ("index.md", "[t](docs/tutorial.md#a-kill)", "[t](tutorial.md#a-kill)"),
        ("index.md", "![five [nouns]](docs/concepts.svg)", "![five [nouns]](concepts.svg)"),
        ("service.md", "[examples](../examples/README.md)", "[examples](examples.md)"),
        ("decisions/README.md", "[spec](../../verifier/SPEC.md#6-caveats)", "[spec](../spec/SPEC.md#6-caveats)"),
        ("examples.md", "[a busy realm](busy_realm.py)", "a busy realm"),
        ("contributing.md", "[pins](docs/requirements.txt)", "pins"),
        ("index.md", "[other](https://example.org/x.md)", "[other](https://example.org/x.md)"),
        ("index.md", "[gone](docs/gone.md)", "[gone](gone.md)"),  # MkDocs reports it
        ("index.md", "[gone](gone.py)", "[gone](gone.py)"),
        ("index.md", "```\n[t](docs/tutorial.md)\n```", "```\n[t](docs/tutorial.md)\n```"),
        ("store.md", "| `a\\|b` | c |", "| `a|b` | c |"),
    ],
)
def test_a_link_leads_to_the_same_page(site: str, written: str, shown: str) -> None:
    """A link of the repository becomes a link of the site; without a page on the site it becomes text."""
    assert on_page_markdown(written, Page(site), None, None) == shown


def test_a_page_from_elsewhere_exists() -> None:
    """Each page from outside of docs is in the repository, and hides none of docs."""
    for source, site in ELSEWHERE.items():
        assert (ROOT / source).is_file()
        assert not (ROOT / "docs" / site).exists()
