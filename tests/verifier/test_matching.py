# SPDX-License-Identifier: Apache-2.0
"""Text forms: glob and subpath, in linear time."""

import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arx_verifier.constraints import text as matching
from arx_verifier.errors import MalformedTokenError

pytestmark = pytest.mark.spec("7.3")

ONE_LINE = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
OTHER_KINDS = [None, True, 5, 5.0, ["a"], {"a": 1}, b"a", Ellipsis]


def naive_glob(pattern: str, text: str) -> bool:
    """The plain recursive definition, exponential and obvious."""
    if pattern == "":
        return text == ""
    if pattern[0] != "*":
        return text[:1] == pattern[0] and naive_glob(pattern[1:], text[1:])
    if naive_glob(pattern[1:], text):
        return True
    return text != "" and text[0] != "/" and naive_glob(pattern, text[1:])


class TestGlob:
    @given(st.text("ab/*", min_size=1, max_size=10), st.text("ab/", max_size=12))
    @example("a*a", "a")
    @example("*a*b*", "ab")
    @example("a/*/b", "a//b")
    def test_it_is_the_plain_definition(self, pattern: str, text: str) -> None:
        """
        The quick matcher agrees with the recursive one on every pattern without ``**``.
        """
        pattern = re.sub(r"\*+", "*", pattern)
        _, holds = matching.glob(pattern)
        assert holds(text) == naive_glob(pattern, text)

    @given(st.text(ONE_LINE, min_size=1, max_size=10), st.text(ONE_LINE, max_size=10))
    def test_nothing_but_the_star_is_special(self, pattern: str, text: str) -> None:
        """
        ``?``, ``[a]``, ``{a,b}``, ``\\`` and everything else stand for themselves.
        """
        pattern = re.sub(r"\*+", "*", pattern)
        _, holds = matching.glob(pattern)
        assert holds(text) == naive_glob(pattern, text)
        if "*" not in pattern:
            assert holds(pattern)

    @pytest.mark.parametrize("odd", ["\0", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9f", "\u2028", "\u2029"])
    @pytest.mark.parametrize("pattern", ["*", "a*", "*b", "a*b", "a*x*b", "*/b", "a", "ab"])
    def test_it_speaks_of_no_text_that_a_reader_could_end_early(self, pattern: str, odd: str) -> None:
        """
        A control character or a line break in a value holds for no pattern, nor for its contrary, and in none is it
        written.
        """
        speaks, holds = matching.glob(pattern)
        for value in (f"a{odd}b", f"a{odd}x{odd}b", f"x{odd}/b", odd, f"a{odd}", f"ab{odd}", f"{odd}b"):
            assert not speaks(value)
            assert not holds(value)
            with pytest.raises(MalformedTokenError, match="without control characters"):
                matching.glob(pattern + odd)

    def test_a_star_never_crosses_a_slash(self) -> None:
        """
        One star is one segment's worth.
        """
        _, holds = matching.glob("docs/*.txt")
        assert holds("docs/a.txt")
        assert holds("docs/.txt")
        for text in ("docs/a/b.txt", "docs/../x.txt", "docs/a.txt/", "/docs/a.txt", "docs/a.txt\n", "DOCS/a.txt"):
            assert not holds(text)

    @pytest.mark.parametrize("operand", ["", "a/**", "**", None, 5, ["*"]])
    def test_a_bad_pattern_is_malformed(self, operand: Any) -> None:
        """
        An empty pattern, and ``**``, which means more elsewhere, are refused when read.
        """
        with pytest.raises(MalformedTokenError):
            matching.glob(operand)

    def test_time_is_linear(self) -> None:
        """
        What ends a backtracking matcher takes milliseconds: many stars against a long run that almost fits.
        """
        _, holds = matching.glob("*a" * 200 + "*b")
        begun = time.perf_counter()
        assert not holds("a" * 200_000)
        _, holds = matching.glob("*a/" * 300 + "*b")
        assert not holds("a/" * 300 + "a" * 100_000)
        assert time.perf_counter() - begun < 1


class TestSubpath:
    @pytest.mark.parametrize(
        ("operand", "value"),
        [
            ("/data", "/data"),
            ("/data", "/data/"),
            ("/data", "/data/a/b.txt"),
            ("/data", "/data/.hidden"),
            ("/data", "/data/a..b/c"),
            ("/data", "/data/%41"),
            ("/data", "/data/a b"),
            ("/", "/"),
            ("/", "/etc"),
            ("docs", "docs/x"),
            ("/données", "/données/é"),
        ],
    )
    def test_it_takes_itself_and_what_is_below(self, operand: str, value: str) -> None:
        """
        The path and everything under it, a trailing slash included.
        """
        speaks, holds = matching.subpath(operand)
        assert speaks(value)
        assert holds(value)

    @pytest.mark.parametrize(
        "value", ["/", "/database", "/dat", "data", "/other/data", "/Data", "/data2/x", " /data", "/dat\u0430"]
    )
    def test_it_takes_nothing_beside(self, value: str) -> None:
        """
        Paths are cut at slashes, not compared as prefixes of text.
        """
        _, holds = matching.subpath("/data")
        assert not holds(value)

    @pytest.mark.parametrize(
        "tail",
        [
            "..",
            "../etc",
            "a/../../etc",
            ".",
            "./a",
            "a/.",
            "a/..",
            "/a",
            "a//b",
            "a\\..\\b",
            "\\a",
            "%2e%2e/etc",
            "%2E%2e/etc",
            "a%2fb",
            "a%2Fb",
            "%5c..%5c",
            "%00",
            "%252e%252e/etc",
            "a\x00",
            "a\nb",
            "a\r",
            "\t",
            "\x7f",
            "..;/etc",
            ".;x/etc",
            "... /etc",
            ".. /etc",
            " /etc",
            "a\n",
            "..\n",
        ],
    )
    @pytest.mark.parametrize("operand", ["/data", "/", "/data/a"])
    def test_what_could_mean_another_path_is_not_spoken_of(self, operand: str, tail: str) -> None:
        """
        Dots, escapes, backslashes, double slashes and control characters fail, and so do not pass under ``not``.
        """
        value = "/data/" + tail
        speaks, holds = matching.subpath(operand)
        assert not holds(value)
        assert not speaks(value)

    @pytest.mark.parametrize("operand", ["", "/a/", "/a/..", "a//b", "/a%2fb", "/a\\b", ".", "/a\x00", None, 1, ["/a"]])
    def test_a_bad_operand_is_malformed(self, operand: Any) -> None:
        """
        The operand is held to the same cleanliness, and to one form.
        """
        with pytest.raises(MalformedTokenError):
            matching.subpath(operand)

    @given(st.text("a./\\% 2eF;\x00", max_size=14))
    def test_what_holds_stays_below_after_resolving(self, tail: str) -> None:
        """
        However a server decodes and resolves an accepted path, it does not leave the operand.
        """
        from posixpath import normpath
        from urllib.parse import unquote

        _, holds = matching.subpath("/data")
        value = "/data/" + tail
        if holds(value):
            resolved = normpath(unquote(unquote(value)).replace("\\", "/"))
            assert resolved == "/data" or resolved.startswith("/data/")

    def test_time_is_linear(self) -> None:
        """
        A megabyte of dots, semicolons or slashes is looked at once.
        """
        _, holds = matching.subpath("/data")
        begun = time.perf_counter()
        for filler in (". ", ";", "a/", "%2", ".;", "/ ."):
            holds("/data/" + filler * 300_000)
        assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("value", OTHER_KINDS, ids=repr)
@pytest.mark.parametrize(
    "test",
    [matching.glob("*"), matching.glob("a*b*"), matching.glob("a"), matching.subpath("/")],
    ids=["star", "stars", "plain", "subpath"],
)
def test_other_kinds_are_not_spoken_of(test: Any, value: Any) -> None:
    """
    Only text is text.
    """
    speaks, holds = test
    assert not speaks(value)
    assert not holds(value)
