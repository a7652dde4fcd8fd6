# SPDX-License-Identifier: Apache-2.0
"""The bytes between a verifier and its store: what was written is read, however it arrives; the rest is refused."""

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.resp import MAX_BULK, MAX_DEPTH, MAX_ITEMS, MAX_LINE, MORE, Reader, RefusedError, pack

SCALARS = st.none() | st.integers(-(2**53), 2**53) | st.binary(max_size=40)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=6), max_leaves=25)


def written(value: Any, null: bytes = b"_\r\n") -> bytes:
    """Write a value as a server does."""
    if value is None:
        return null
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return b"*%d\r\n" % len(value) + b"".join(written(one, null) for one in value)


def all_of(reader: Reader) -> list[Any]:
    """Take every value that is whole."""
    found = []
    while (value := reader.take()) is not MORE:
        found.append(value)
    return found


@given(st.lists(VALUES, max_size=5), st.lists(st.integers(0, 400), max_size=8), st.sampled_from([b"_\r\n", b"$-1\r\n"]))
def test_what_was_written_is_read_wherever_it_is_cut(values: list[Any], cuts: list[int], null: bytes) -> None:
    """Each value comes once, whole and in order, whatever pieces its bytes arrive in."""
    stream, reader, found = b"".join(written(value, null) for value in values), Reader(), []
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    for begin, end in itertools.pairwise(ends):
        reader.feed(stream[begin:end])
        found += all_of(reader)
    assert found == values


@given(st.lists(st.text(max_size=30) | st.integers() | st.binary(max_size=30), min_size=1, max_size=20))
def test_a_command_is_a_list_of_its_words(words: list[Any]) -> None:
    """It is read as it was meant, whatever characters are in it."""
    reader = Reader()
    reader.feed(pack(*words))
    assert all_of(reader) == [[word if isinstance(word, bytes) else str(word).encode() for word in words]]


def test_a_push_and_a_line_are_read() -> None:
    """A push is a list, a line is text; the empty and the missing list are told apart."""
    reader = Reader()
    reader.feed(b">2\r\n$8\r\nsmessage\r\n+ok\r\n*0\r\n*-1\r\n")
    assert all_of(reader) == [[b"smessage", b"ok"], [], None]


def test_a_refusal_is_told() -> None:
    """Also in the middle of a list."""
    for stream in (b"-NOPERM no\r\n", b"*2\r\n:1\r\n-NOPERM no\r\n"):
        reader = Reader()
        reader.feed(stream)
        with pytest.raises(RefusedError, match="NOPERM no"):
            reader.take()


@pytest.mark.parametrize(
    "stream",
    [
        b"?what\r\n",
        b":five\r\n",
        b"$many\r\n",
        b"*x\r\n",
        b"\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b"$%d\r\n" % (MAX_BULK + 1),
        b"*%d\r\n" % (MAX_ITEMS + 1),
        b"*1\r\n" * (MAX_DEPTH + 1),
        b"+" + b"x" * (MAX_LINE + 1),
    ],
)
def test_what_is_too_large_or_unknown_is_refused(stream: bytes) -> None:
    """Nothing is guessed, and nothing without end is kept."""
    reader = Reader()
    reader.feed(stream)
    with pytest.raises(ValueError, match=r"a |invalid literal|index"):
        reader.take()


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waited_for(noise: bytes) -> None:
    """No bytes make it fail in another way."""
    reader = Reader()
    reader.feed(noise)
    with contextlib.suppress(RefusedError, ValueError):
        all_of(reader)
