# SPDX-License-Identifier: Apache-2.0
"""No regular expression of the verifier takes more than linear work, whatever text it is given.

A backtracking matcher is written out below over Python's own parse of each expression, and counts its steps: more of
them than the compiled one takes, which has short cuts, and with the same growth.
"""

import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import arx_verifier

LINEAR = 2.35  # from 2n to 4n twice as much is added as from n to 2n
SLACK = 60
SIZE = 8  # characters; the texts have as many, twice as many and four times as many
LETTERS = 6


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Yield every compiled expression of the package, by module and name."""
    for found in pkgutil.walk_packages(arx_verifier.__path__, "arx_verifier."):
        if found.name.startswith(("arx_verifier._", "arx_verifier.integrations.")):
            continue
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                yield f"{found.name}.{name}", value


class Matcher:
    """Matches as ``re`` does, and counts.

    Attributes:
        steps: How often a part of the expression was tried at a place.
    """

    def __init__(self, pattern: re.Pattern[Any]) -> None:
        self._flags = pattern.flags
        self._tree = list(parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE))
        self.steps = 0

    def tries(self, text: Sequence[int], *, searches: bool) -> int:
        """Match the whole text, or look for a match from everywhere; returns the steps."""
        self.steps, self._text = 0, text
        for start in range(len(text) + 1) if searches else (0,):
            if self._match(self._tree, start, lambda at: searches or at == len(text)):
                break
        return self.steps

    def _match(self, items: list[Any], at: int, rest: Callable[[int], bool]) -> bool:
        self.steps += 1
        if not items:
            return rest(at)
        (op, operand), after = items[0], items[1:]

        def go_on(then: int) -> bool:
            return self._match(after, then, rest)

        if op is ops.SUBPATTERN:
            return self._match(list(operand[3]), at, go_on)
        if op is ops.BRANCH:
            return any(self._match(list(branch), at, go_on) for branch in operand[1])
        if op is ops.MAX_REPEAT:
            least, most, body = operand
            return self._repeat(list(body), least, most, at, go_on)
        if op is ops.ASSERT_NOT:
            return not self._match(list(operand[1]), at, lambda _: True) and go_on(at)
        if op is ops.GROUPREF:  # of what was short: the same, or nothing
            return go_on(at)
        if op is ops.AT:
            ends = {ops.AT_BEGINNING: 0, ops.AT_BEGINNING_STRING: 0}
            return at == ends.get(operand, len(self._text)) and go_on(at)
        return at < len(self._text) and self._takes(op, operand, self._text[at]) and go_on(at + 1)

    def _repeat(self, body: list[Any], least: int, most: Any, at: int, rest: Callable[[int], bool]) -> bool:
        def once_more(then: int) -> bool:
            fewer = most if most is ops.MAXREPEAT else most - 1
            return then > at and self._repeat(body, max(0, least - 1), fewer, then, rest)

        if (most is ops.MAXREPEAT or most > 0) and self._match(body, at, once_more):
            return True
        return least == 0 and rest(at)

    def _takes(self, op: Any, operand: Any, char: int) -> bool:
        if op is ops.IN:
            negated = operand[0][0] is ops.NEGATE
            return negated != any(self._takes(*item, char) for item in operand[negated:])
        if self._flags & re.IGNORECASE:
            both = {chr(char).lower(), chr(char).upper()}
            return any(self._takes_exactly(op, operand, ord(one)) for one in both)
        return self._takes_exactly(op, operand, char)

    @staticmethod
    def _takes_exactly(op: Any, operand: Any, char: int) -> bool:
        if op is ops.LITERAL:
            return bool(char == operand)
        if op is ops.NOT_LITERAL:
            return bool(char != operand)
        if op is ops.RANGE:
            return bool(operand[0] <= char <= operand[1])
        assert op is ops.ANY or op is ops.CATEGORY, op
        return char != 10


def letters(tree: Any, *, repeated: bool = False) -> Iterator[tuple[bool, int]]:
    """Yield characters that the expression speaks of, one for each range, and whether none of those is repeated."""
    for op, operand in tree:
        if op in (ops.LITERAL, ops.NOT_LITERAL):
            yield not repeated, operand
        elif op is ops.RANGE:
            yield not repeated, operand[0]
        elif op is ops.IN:
            yield from letters(operand[operand[0][0] is ops.NEGATE :], repeated=repeated)
        elif op is ops.SUBPATTERN:
            yield from letters(operand[3], repeated=repeated)
        elif op is ops.BRANCH:
            for branch in operand[1]:
                yield from letters(branch, repeated=repeated)
        elif op is ops.MAX_REPEAT:
            yield from letters(operand[2], repeated=repeated or operand[1] is ops.MAXREPEAT)


def texts(alphabet: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield what makes matchers backtrack: repetitions, after a beginning that fits, with an end that does not."""
    for first, second in itertools.product(alphabet, repeat=2):
        for begin, end in itertools.product(([], [second, first]), ([], [0])):
            yield [*begin, *([first, second] * (size // 2)), *end]


@pytest.mark.parametrize(("name", "pattern"), [pytest.param(n, p, id=n) for n, p in patterns()])
def test_an_expression_takes_linear_work(name: str, pattern: re.Pattern[Any]) -> None:
    """
    Four times the text takes four times the steps, whether the expression matches whole texts or is looked for in them.
    """
    module, _, own = name.rpartition(".")
    source = inspect.getsource(importlib.import_module(module))
    uses = set(re.findall(rf"(?<!\w){own}\.(\w+)", source))
    looks = {"search", "sub", "findall", "finditer", "split"}  # wherever in the text it stands
    known = uses and any(uses <= ways for ways in (looks, {"match"}, {"fullmatch"} | looks))
    assert known, f"{name} is used in another way than this test knows: {uses}"
    searches = bool(uses & looks)
    matcher, tree = Matcher(pattern), parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)
    alphabet = [letter for _, letter in sorted(set(letters(tree)))][:LETTERS]
    for sizes in zip(*(texts(alphabet, SIZE * times) for times in (1, 2, 4)), strict=True):
        least, middle, most = (matcher.tries(text, searches=searches) for text in sizes)
        assert most - middle <= LINEAR * max(0, middle - least) + SLACK, (list(map(chr, sizes[0])), least, middle, most)


@pytest.mark.parametrize("bad", ["(a+)+b", "a+a+a+b", "(a|a)*b"])
def test_the_matcher_sees_what_is_worse(bad: str) -> None:
    """
    Expressions that are known to be slow do not pass.
    """
    matcher = Matcher(re.compile(bad))
    steps = [matcher.tries([97] * size, searches=False) for size in (3, 6, 12)]
    assert steps[2] - steps[1] > LINEAR * (steps[1] - steps[0]) + SLACK
