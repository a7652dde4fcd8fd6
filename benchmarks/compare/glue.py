# SPDX-License-Identifier: Apache-2.0
"""Count the lines of an example that it has for a product's sake."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any, Final

PRODUCTS: Final = ("arx_caps", "arx_verifier", "tenuo")


def lines_of(example: Callable[..., Any]) -> int:
    """Return how many lines of a function name a product, or something that was made with one.

    A call counts with all its lines, and so does a class of the example; comments and blank lines do not count.

    Args:
        example: The function; it imports the product itself.
    """
    text = textwrap.dedent(inspect.getsource(example))
    tree, names = ast.parse(text), set[str]()
    counted: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PRODUCTS:
            names |= {each.asname or each.name for each in node.names}
            counted |= _lines(node)
        if isinstance(node, ast.ClassDef):  # an example without a product has none
            names.add(node.name)
            counted |= _lines(node)
    while grown := _made_with(tree, names) - names:
        names |= grown
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and _root(node) in names:
            counted |= _lines(node)
    for node in ast.walk(tree):  # what is handed to the comparison is no glue
        if isinstance(node, ast.Return) and all(isinstance(each, ast.Name) for each in _parts(node.value)):
            counted -= _lines(node)
    code = text.splitlines()
    return sum(bool(code[number - 1].strip()) and not code[number - 1].lstrip().startswith("#") for number in counted)


def _made_with(tree: ast.AST, names: set[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        pairs: list[tuple[ast.expr, ast.expr | None]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.With | ast.AsyncWith):
            pairs = [(item.optional_vars, item.context_expr) for item in node.items if item.optional_vars is not None]
        for target, value in pairs:
            if value is not None and any(_root(part) in names for part in _parts(value)):
                found |= {part.id for part in _parts(target) if isinstance(part, ast.Name)}
    return found


def _parts(value: ast.expr | None) -> list[ast.expr]:
    if isinstance(value, ast.Tuple):
        return value.elts
    return [] if value is None else [value]


def _root(node: ast.expr) -> str | None:
    """Return the name that a chain of calls, attributes and items begins with."""
    while True:
        match node:
            case (
                ast.Call(func=inner) | ast.Attribute(value=inner) | ast.Subscript(value=inner) | ast.Await(value=inner)
            ):
                node = inner
            case ast.Name(id=name):
                return name
            case _:
                return None


def _lines(node: ast.stmt | ast.expr) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
