# SPDX-License-Identifier: Apache-2.0
"""Reserve what a model call can cost, commit what it did cost: ``python examples/llm_budget.py``.

A research agent with 0.50 usd delegates 0.20 usd to a worker.  The service in front of the model reserves what an
answer can cost at most, and commits what it did cost.  The model is scripted; a real one changes ``ask_model`` alone.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from arx_verifier import AccessError, Rule, current_grant, protect
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm

USD_PER_TOKEN = Decimal("0.0001")
# Costs of the service: the maximum is an argument of the call, which the caller signs.
COSTS: dict[str, Any] = {"llm.complete": {"usd": {"reserve": "$max_usd"}, "calls": 1}}

realm = UnsafeTestRealm("llm", costs=COSTS)


def scripted() -> Iterator[tuple[str, int]]:
    """Answers and their tokens, as a model would give them."""
    while True:
        yield from (("a plan in three steps", 240), ("what the paper says", 610), ("a summary", 330))


MODEL = scripted()


def ask_model(prompt: str, max_tokens: int) -> tuple[str, int]:
    """Return an answer and its number of tokens."""
    text, tokens = next(MODEL)
    return f"{prompt}: {text}", min(tokens, max_tokens)


@protect(realm.verifier, "llm.complete")
def complete(prompt: str, max_usd: str) -> dict[str, Any]:
    """Answer a prompt for at most so much."""
    grant = current_grant()
    assert grant is not None
    text, tokens = ask_model(prompt, int(Decimal(max_usd) / USD_PER_TOKEN))
    # Without this line all of `max_usd` would stay taken: a crash costs too much, and never too little.
    grant.commit(tokens * USD_PER_TOKEN)
    return {"text": text, "usd": str(tokens * USD_PER_TOKEN), "left": grant.remaining["usd"]}


def work(name: str, agent: UnsafeCaller) -> None:
    """Ask until the budget does not cover the maximum of one more answer."""
    for number in range(1, 20):
        args = {"prompt": f"question {number}", "max_usd": "0.08"}
        try:
            answer = complete(**args, arx_token=agent.token("llm.complete", **args))
        except AccessError as error:
            shortfall: Any = error.failures[0]
            print(f"{name}: {error.code}: {shortfall.remaining} of {shortfall.required} {shortfall.unit}")
            return
        print(f"{name}: {answer['text']} for {answer['usd']} usd, {answer['left']} left")


if __name__ == "__main__":
    researcher = realm.caller(Rule(tool="llm.complete"), agent="acme/research", budget={"usd": "0.50", "calls": 100})
    work("worker", researcher.delegate("acme/research/worker", budget={"usd": "0.20"}))
    work("researcher", researcher)
