# SPDX-License-Identifier: Apache-2.0
"""The code that is simulated: as it is, or with one mistake patched into its source text.

A patch names the text it replaces, and that text must be there exactly once: a change of the code that would make a
mistake harmless fails the test instead.
"""

import ast
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from arx_caps.mint.identity import authenticate
from arx_caps.relay import hub, upstream
from arx_verifier.revocation import epoch
from arx_verifier.revocation import follower_core as following

Patches = dict[str, tuple[tuple[str, str], ...]]
GUARDED = "  if header.replid ~= id then\n    return UNATTESTED\n"  # in the probe
COMPARED = "  elseif known ~= argv[4] then\n"  # in the probe
BELOW = {"follower_core": {"epoch"}, "upstream": {"epoch", "follower_core"}}
LUA = Path(authenticate.__file__).parents[2] / "revocation" / "functions.lua"


class Code(NamedTuple):
    """What the simulator runs.

    Attributes:
        following: The class ``Following``.
        passing: A relay's view.
        hub: A relay's knowledge of those behind it.
        caller: The mint's check of who asks, which reads ``born``.
        replicas_answer: Whether a replica answers a probe: it does if the function claims not to write.
        chain_compared: Whether the store holds a probe's chain against its own.
        guarded: Whether a server that no mint attested refuses probes.
        pauses: The lines between which other things may happen, by code object.
    """

    following: type[following.Following]
    passing: type[upstream.Passing]
    hub: type[hub.Hub]
    caller: Callable[..., authenticate.AuthenticatedCaller]
    replicas_answer: bool
    chain_compared: bool
    guarded: bool
    pauses: dict[types.CodeType, tuple[int, ...]]


def load(patches: Patches | None = None) -> Code:
    """Return the real code, or fresh modules made of its text with every patch applied."""
    patched = patches or {}
    used: dict[str, Any] = {}
    for module in (epoch, following, authenticate, upstream, hub):
        name = module.__name__.rpartition(".")[2]
        # What is above a patched module must use the patched one, and so be made afresh as well.
        fresh = name in patched or not BELOW.get(name, set()).isdisjoint(patched)
        used[name] = _fresh(module, patched.get(name, ()), used) if fresh else module
    lua = _replace(LUA.read_text("utf-8"), patched.get("functions.lua", ()))
    (flags,) = [line for line in lua.splitlines() if line.startswith("local flags = ")]
    table, following_class = used["epoch"].EpochTable, used["follower_core"].Following
    assert issubclass(following_class, table)
    steps = [table.check, table.apply, table.renew, table.adopt, table.fence, used["authenticate"]._authenticate_agent]
    steps += [following_class._take_entries, following_class._apply, following_class.take_push]
    pauses = {step.__code__: _lines(step.__code__) for step in steps}
    assert set(patched) <= {*used, "functions.lua"}
    relay = (used["upstream"].Passing, used["hub"].Hub)
    assert issubclass(relay[0], following_class)
    agent = used["authenticate"]._authenticate_agent
    return Code(following_class, *relay, agent, "no-writes" in flags, COMPARED in lua, GUARDED in lua, pauses)


def _replace(text: str, patches: tuple[tuple[str, str], ...]) -> str:
    for old, new in patches:
        assert text.count(old) == 1, f"the text to be broken is there {text.count(old)} times: {old!r}"
        text = text.replace(old, new)
    return text


def _fresh(module: types.ModuleType, patches: tuple[tuple[str, str], ...], used: dict[str, Any]) -> types.ModuleType:
    path = str(module.__file__)
    text = _replace(Path(path).read_text("utf-8"), patches)
    name = module.__name__ + "_broken"
    made = types.ModuleType(name)
    covered = {other.__name__.removesuffix("_broken"): other for other in used.values()}
    before = {real: sys.modules[real] for real in covered}
    sys.modules.update(covered | {name: made})
    try:
        exec(compile(text, f"{path} (broken)", "exec"), made.__dict__)
    finally:
        sys.modules.update(before)
        del sys.modules[name]
    _TEXTS[f"{path} (broken)"] = text
    return made


_TEXTS: dict[str, str] = {}


def _lines(code: types.CodeType) -> tuple[int, ...]:
    """Return the lines before which a thread may be held up.

    Plain returns are none of them: a decision is made by its last look at the state and the clocks.
    """
    text = _TEXTS.get(code.co_filename) or Path(code.co_filename).read_text("utf-8")
    returns = {
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Return) and (not isinstance(node.value, ast.Call) or _refuses(node.value))
    }
    return tuple(sorted({line for _, _, line in code.co_lines() if line} - returns - {code.co_firstlineno}))


def _refuses(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "EpochRefusal"
