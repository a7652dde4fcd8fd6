# SPDX-License-Identifier: Apache-2.0
"""docs/gateway.md: its files are read as they are shown, and its tables have what the settings say.

``python -m tests.gateway.test_page`` writes the tables.
"""

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arx_caps.gateway.settings import (
    CredentialTerms,
    GatewayTerms,
    OAuthTerms,
    RateTerms,
    UpstreamTerms,
    read_settings,
)
from arx_caps.mint.policy.model import Policy
from arx_verifier.enforcement.routes import RouteMap
from tests.house.pages import ROOT, blocks

FILE = ROOT / "docs" / "gateway.md"
TABLES = {
    "gateway": GatewayTerms,
    "upstream": UpstreamTerms,
    "credential": CredentialTerms,
    "oauth": OAuthTerms,
    "rate": RateTerms,
}


def described(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The text of each attribute, out of a docstring of Google's form."""
    _, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "`") for name, text in found}


def default_of(field: msgspec.structs.FieldInfo) -> str:
    """A default as TOML has it."""
    if field.required:
        return "needed"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # type: ignore[misc]
    if not value or isinstance(value, msgspec.Struct):
        return "false" if value is False else "none"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{each}"' for each in value) + "]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def table(kind: type[msgspec.Struct]) -> str:
    """The table of the page."""
    texts = described(kind)
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    assert texts.keys() == fields.keys()
    rows = [f"| `{field.encode_name}` | {default_of(field)} | {texts[name]} |" for name, field in fields.items()]
    return "\n".join(["| member | default | meaning |", "| --- | --- | --- |", *rows])


def with_tables(page: str) -> str:
    """The page with its tables written anew."""
    for name, kind in TABLES.items():
        pattern = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
        new = f"\\1\n{table(kind)}\n\n\\2".replace("\\", "\\\\").replace("\\\\1", "\\1").replace("\\\\2", "\\2")
        page, count = pattern.subn(new, page)
        assert count == 1
    return page


def test_the_tables_are_those_of_the_settings() -> None:
    """Each member with its default and the text of its docstring."""
    page = FILE.read_text("utf-8")
    assert page == with_tables(page)


def shown() -> list[dict[str, Any]]:
    return [tomllib.loads(block.text) for block in blocks(FILE.read_text("utf-8")) if block.language == "toml"]


def test_the_file_is_read_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its routes make a table, and each audience has the origin at which the gateway listens for it."""
    text, policy_text, _ = [block.text for block in blocks(FILE.read_text("utf-8")) if block.language == "toml"]
    (tmp_path / "gateway.toml").write_text(text)
    settings = read_settings(tmp_path / "gateway.toml")
    RouteMap(settings.upstreams["billing"].routes)
    _, policy, credential = shown()
    assert msgspec.convert(credential["upstream"]["github"]["credential"], CredentialTerms).oauth is not None
    audiences = {name: each["origins"] for name, each in policy["audience"].items()}
    assert audiences.keys() == {terms.audience for terms in settings.upstreams.values()}
    granted = Policy.parse(policy_text, "policy.toml").grant("invoice", "acme/desk/a", {"invoice_id": "i-1"})
    tools = {rule.tool for rules in granted.rules.values() for rule in rules}
    assert tools - {"files.read_text_file"} < set(settings.upstreams["billing"].routes.values())
    assert [f"http://{place}" for place in settings.gateway.listen] == [each for [each] in audiences.values()]


if __name__ == "__main__":
    FILE.write_text(with_tables(FILE.read_text("utf-8")), "utf-8")
