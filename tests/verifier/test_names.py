# SPDX-License-Identifier: Apache-2.0
"""Names: one grammar each, and paths cut at slashes."""

from typing import Any

import pytest

from arx_verifier import names

pytestmark = pytest.mark.spec("4.4")

NEVER: list[Any] = ["", " ", "A", "a b", "a\n", "é", "-a", ".a", "_a", None, 5, True, ["a"], b"a"]


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (names.is_realm, ["demo", "a", "0.a_-", "a" * 32], [*NEVER, "a" * 33, "a/b"]),
        (names.is_audience, ["orders", "a.b", "a" * 64], [*NEVER, "a" * 65, "arx", "arx.mint", "arxiv", "a/b"]),
        (
            names.is_agent_path,
            ["acme", "acme/support/triage", "/".join("abcdefgh"), "a" * 64],
            [*NEVER, "/a", "a/", "a//b", "a/*", "a/..", "a/.b", "/".join("abcdefghi"), "a" * 65, "a/B"],
        ),
        (
            names.is_path_pattern,
            ["acme", "acme/*", "*/x", "acme/**", "**", "*", "acme/*/x/**"],
            [*NEVER, "**/a", "a/**/b", "a*", "a/b*", "a/***", "/**", "a/", "a//**"],
        ),
        (
            names.is_tool,
            ["orders.get", "read_file", "a/b:C-1", "A" * 96],
            ["", ".", "a.", "a..b", "a*", "*", "a b", "A" * 97, None],
        ),
        (
            names.is_tool_pattern,
            ["orders.get", "orders.*", "*"],
            ["", ".*", "a*", "*.a", "a.*.b", "a.**", "**", None, 5],
        ),
        (names.is_root_name, ["k1", "a" * 16], [*NEVER, "a" * 17, "k.1", "k-1"]),
        (names.is_kid, ["k1.0", "root.12"], [*NEVER, "k1", "k1.", "k1.01", "k1.-1", "k1.\u0661", "k.1.2", "K1.0"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_name_fits_its_grammar_or_not(check: Any, good: list[str], bad: list[Any]) -> None:
    """
    Nothing but lower-case ASCII of the grammar passes, and nothing that is no text.
    """
    assert [text for text in good if not check(text)] == []
    assert [text for text in bad if check(text)] == []


@pytest.mark.spec("4.4")
@pytest.mark.parametrize(
    ("pattern", "covers", "not_"),
    [
        ("acme", ["acme"], ["acme/x", "acme2", "acm"]),
        ("acme/*", ["acme/x"], ["acme", "acme/x/y", "acme2/x"]),
        ("acme/**", ["acme", "acme/x", "acme/x/y"], ["acme2", "acme2/x", "x/acme"]),
        ("*/x", ["a/x", "b/x"], ["x", "a/b/x", "a/y"]),
        ("**", ["a", "a/b/c"], []),
        ("*", ["a"], ["a/b"]),
        ("a/*/**", ["a/b", "a/b/c"], ["a", "b/a"]),
    ],
)
def test_a_pattern_covers_whole_segments(pattern: str, covers: list[str], not_: list[str]) -> None:
    """
    A star is one segment; a last double star is the path itself and all below.
    """
    assert [path for path in covers if not names.matches_path(pattern, path)] == []
    assert [path for path in not_ if names.matches_path(pattern, path)] == []
    assert not names.matches_any_path([], covers[0])
    assert names.matches_any_path(["zzz", pattern], covers[0])


def test_a_path_s_ancestors_are_cut_at_slashes() -> None:
    """
    A name that merely begins alike is no ancestor.
    """
    assert names.ancestors("acme/support/triage") == ["acme/support/triage", "acme/support", "acme"]
    assert names.ancestors("acme") == ["acme"]
    assert "acme" not in names.ancestors("acme2/x")


@pytest.mark.spec("7.1")
@pytest.mark.parametrize("tool", ["a", "a.b", "a.b.c", "ab", "b.a", ""])
@pytest.mark.parametrize("pattern", ["a", "a.*", "a.b", "a.b.*", "*"])
def test_patterns_of_tools_agree_with_rules(pattern: str, tool: str) -> None:
    """
    The pattern's own matcher and a compiled rule give one answer.
    """
    from arx_verifier.constraints.rule import Rule, compile_rule

    assert names.matches_tool(pattern, tool) == compile_rule(Rule(tool=pattern)).matches_tool(tool)
