# SPDX-License-Identifier: Apache-2.0
"""Check that the HTML of a page is well formed, and that its ids are unique."""

import re
from html.parser import HTMLParser

_SHOWN_HTML = re.compile("(<|&lt;)(a|code|span|time) (class|datetime|href|title)=")
VOID = {"br", "hr", "img", "input", "link", "meta", "rect", "path"}


class _Checker(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]
        self.wrong += [f"{tag} has {name}" for name, _ in attrs if name == "style" or name.startswith("on")]
        if self.open and self.open[-1] in ("ol", "ul") and tag != "li":
            self.wrong.append(f"{tag} in a list at {self.getpos()}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        self.wrong += [f"{found[0]} is shown as text at {self.getpos()}" for found in _SHOWN_HTML.finditer(data)]

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")


def require_well_formed(text: str) -> None:
    """Require that elements are closed in order, and ids are unique.

    Lists have items alone, nothing is styled or scripted in place, and no HTML of the console is shown as text.
    """
    checker = _Checker()
    checker.feed(text)
    checker.close()
    assert not checker.wrong, checker.wrong[:5]
    assert not checker.open, checker.open
    assert len(checker.ids) == len(set(checker.ids)), checker.ids
