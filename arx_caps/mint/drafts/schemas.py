# SPDX-License-Identifier: Apache-2.0
"""The tools of OpenAPI documents and of MCP servers, with the constraints of their JSON schemas.

A tool is the audience, a dot, and the ``operationId`` or the server's own name, as the gateway has it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from arx_caps.http.openapi import READS, operations_of, resolved
from arx_caps.mint.drafts.calls import CODE
from arx_caps.mint.drafts.draft import DraftRule, DraftTemplate, escape, name_for
from arx_caps.mint.drafts.ladder import allows, decimal_text, optional
from arx_verifier.errors import SettingsError
from arx_verifier.names import is_tool

_DEEPEST: Final = 8  # of schemas in schemas; a rule nests less
_WORDS: Final = {
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
}
# A bound that a schema excludes is allowed: a constraint has none of this kind.
_BOUNDS: Final = {"minimum": "min", "exclusiveMinimum": "min", "maximum": "max", "exclusiveMaximum": "max"}


def read_tools(path: Path, audience: str) -> dict[bool, list[DraftRule]]:
    """Return a rule for each tool of a document: by whether the document says that the tool only reads.

    Args:
        path: An OpenAPI document of version 3, or the answer of an MCP server to ``tools/list``, in JSON.
        audience: What each tool begins with.

    Raises:
        SettingsError: The file cannot be read or is neither, or a tool has no name that a policy can have.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = list(_operations(document) if "paths" in document else _listed(document))
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        expected = "an OpenAPI document of version 3, or the answer to tools/list, in JSON"
        raise SettingsError(f"{path}: expected {expected}: {type(error).__name__}: {error}", code=CODE) from error
    rules: dict[bool, list[DraftRule]] = {True: [], False: []}
    for name, reads, args, notes in found:
        if not is_tool(tool := f"{audience}.{name}"):
            raise SettingsError(f"{path}: expected a tool's name of [A-Za-z0-9_.-], got {tool!r:.100}", code=CODE)
        rules[reads].append(DraftRule(tool=tool, at=audience, args=escape(args), notes=notes))
    return rules


def propose_templates(documents: Mapping[str, dict[bool, list[DraftRule]]], agents: list[str]) -> list[DraftTemplate]:
    """Return two templates for each document: one for the tools that only read, and one for the others.

    Args:
        documents: Rules by audience, of ``read_tools``.
        agents: Patterns of the agents that may start them.
    """
    taken: set[str] = set()
    return [
        DraftTemplate(name=name_for(f"{audience} {'read' if reads else 'write'}", taken), agents=agents, rules=rules)
        for audience, by_effect in documents.items()
        for reads, rules in by_effect.items()
        if rules
    ]


def add_notes(templates: Iterable[DraftTemplate], documents: Mapping[str, dict[bool, list[DraftRule]]]) -> list[str]:
    """Add to the rules what documents say of their tools; return the tools of the documents that no rule is for."""
    notes = {
        rule.tool: rule.notes for by_effect in documents.values() for rules in by_effect.values() for rule in rules
    }
    rules = [rule for each in templates for rule in each.rules]
    for rule in rules:
        rule.notes = list(dict.fromkeys([*rule.notes, *notes.get(rule.tool, ())]))
    return sorted(notes.keys() - {rule.tool for rule in rules})


def _listed(document: Any) -> Iterator[tuple[str, bool, dict[str, Any] | None, list[str]]]:
    tools = document if isinstance(document, list) else document.get("result", document)["tools"]
    for tool in tools:
        hints = tool.get("annotations") or {}
        reads, schema = hints.get("readOnlyHint") is True, tool.get("inputSchema") or {}
        facts = {
            "only reads (readOnlyHint)": reads,
            "may destroy (destructiveHint)": hints.get("destructiveHint") and not reads,
            "returns what others wrote (openWorldHint)": hints.get("openWorldHint"),
            "sends to others (openWorldHint)": hints.get("openWorldHint") and not reads,
        }
        yield tool["name"], reads, _members(schema, schema), [text for text, holds in facts.items() if holds]


def _operations(document: Any) -> Iterator[tuple[str, bool, dict[str, Any] | None, list[str]]]:
    for operation in operations_of(document):
        args = dict[str, Any]()
        for (where, name), parameter in operation.parameters.items():
            if where in ("path", "query"):
                constraint = _constraint(document, parameter.get("schema", {}))
                args[name] = constraint if parameter.get("required") else optional(constraint)
        body = resolved(document, operation.about.get("requestBody", {}), operation.place)
        for media in body.get("content", {}).values():
            args |= _members(document, media.get("schema", {})) or {}
        yield operation.about["operationId"], operation.method in READS, args, [operation.place]


def _members(document: Any, schema: Any, depth: int = 0) -> dict[str, Any] | None:
    """Return the constraints of an object's members; None if the schema names none and allows any."""
    found = resolved(document, schema, "a schema")
    if "properties" not in found and found.get("additionalProperties", True) is not False and found:
        return None
    required = found.get("required", ())
    made = {name: _constraint(document, each, depth + 1) for name, each in found.get("properties", {}).items()}
    return {name: each if name in required else optional(each) for name, each in made.items()}


def _constraint(document: Any, schema: Any, depth: int = 0) -> Any:
    """Return the constraint of a JSON schema, as plain data; ``any`` for what a constraint cannot say."""
    found = resolved(document, schema, "a schema") if isinstance(schema, Mapping) and depth < _DEEPEST else {}
    choices = [each for each in found.get("anyOf") or found.get("oneOf") or () if each != {"type": "null"}]
    if len(choices) == 1:
        return _constraint(document, choices[0], depth + 1)
    kind = found.get("type")
    made: Any = {word: found[name] for name, word in _WORDS.items() if kind in ("string", "array") and name in found}
    if "const" in found or "enum" in found:
        made = {"one_of": found.get("enum", [found.get("const")])}
    elif kind in ("integer", "number"):
        bounds = {word: found[name] for name, word in _BOUNDS.items() if name in found}
        made = (
            bounds if kind == "integer" else {word: decimal_text(Decimal(str(each))) for word, each in bounds.items()}
        )
    elif kind == "boolean":
        made = {"one_of": [True, False]}
    elif kind == "array" and "items" in found:
        made["each"] = _constraint(document, found["items"], depth + 1)
    elif kind == "object":
        made = {"fields": _members(document, found, depth)}
    return made if allows(made, ()) else {"any": True}
