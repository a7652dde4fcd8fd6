# SPDX-License-Identifier: Apache-2.0
"""Model calls in the agent's own process, paid from the budgets of its task.  SPEC 17.4.

Before each call its highest cost is reserved, and after it the actual cost is committed.  The adapters of
``arx_caps.integrations`` call this; this module uses no framework.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from arx_caps.agent.tasks.task import Task
from arx_caps.agent.tools.running_task import current_task, running_call
from arx_verifier.amounts import Amount, amount_text, read_amount
from arx_verifier.clock import now_ms
from arx_verifier.enforcement import Enforcement, granted
from arx_verifier.errors import SettingsError, shorten
from arx_verifier.names import is_tool
from arx_verifier.request import AccessRequest
from arx_verifier.verification import Grant, Verifier


class TokenUsage(NamedTuple):
    """The tokens of one model call.

    Attributes:
        input: Of the prompt, cached ones included.
        output: Of the answer, reasoning included.
        cached: Those of the prompt that the provider read from its cache.
        cache_written: Those of the prompt that the provider wrote into its cache.
    """

    input: int
    output: int
    cached: int = 0
    cache_written: int = 0


class ModelBudget:
    """Pays model calls from the budgets of the task that makes them.

    The costs of the verifier's service reserve ``$max_`` and the unit:
    ``{"llm.complete": {"usd": {"reserve": "$max_usd"}}}``.  A task needs the tool, and a budget limits what it spends.

    Attributes:
        most: The most tokens of a call, or a function that returns them for the framework's messages of it.

    Args:
        verifier: Decides and records each model call; the program that made it also starts it.
        cost: Returns what a call costs, by unit, of its tokens:
            ``lambda used: {"usd": used.input * INPUT_PRICE + used.output * OUTPUT_PRICE}``.
        most: As the attribute.  What a call costs beyond it was spent before a budget could refuse it.
        tool: The name of a model call in tokens.

    Raises:
        SettingsError: The tool's name is malformed.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        cost: Callable[[TokenUsage], Mapping[str, Amount]],
        most: TokenUsage | Callable[[Any], TokenUsage],
        tool: str = "llm.complete",
    ) -> None:
        if not is_tool(tool):
            raise SettingsError(f"{shorten(tool)} cannot name a tool")
        self._enforcement, self._cost, self._tool, self.most = Enforcement(verifier), cost, tool, most

    def reserve(self, task: Task | None, messages: Any) -> "ReservedCall":
        """Reserve what a model call can cost at most; waits for the ledger.

        Args:
            task: The task.  Where a sub-agent runs with a part of it, that part pays.  None for the running task.
            messages: The framework's messages of the call, for ``most``.

        Raises:
            BudgetError: A pool has less than the call can cost; its failure names pool, hop, remaining and required.
            ArxError: The task may not call the model, has ended, or the ledger did not answer.
        """
        part = current_task()
        payer = running_call()[0] if task is None else part if part is not None and part.id == task.id else task
        most = self.most(messages) if callable(self.most) else self.most
        args = {f"max_{unit}": amount_text(read_amount(amount)) for unit, amount in self._cost(most).items()}
        verifier = self._enforcement.verifier
        token = payer.call_token(verifier.audience, self._tool, args)
        request = AccessRequest(self._tool, args, now_ms())
        with granted(self._enforcement, self._enforcement.decide(token, request), request) as grant:
            return ReservedCall(grant, self._cost, most)


class ReservedCall:
    """A model call whose highest cost is reserved.

    Attributes:
        most: The most tokens that it may have.
        grant: The grant of the call.
    """

    def __init__(self, grant: Grant, cost: Callable[[TokenUsage], Mapping[str, Amount]], most: TokenUsage) -> None:
        self.grant, self._cost, self.most = grant, cost, most

    def commit(self, used: TokenUsage | None) -> None:
        """Commit what the call cost; waits for the ledger.

        Args:
            used: Its tokens; None if they are not known.  Then it costs all that was reserved.

        Raises:
            BudgetError: It cost more than was reserved, and a pool has not so much left.
            StoreError: The ledger did not answer; the reservation stays taken.
        """
        # A provider that reports nothing used has not said that the call was free.
        known = used is not None and (used.input or used.output)
        self.grant.commit(**(self._cost(used) if used is not None and known else {}))

    def fail(self, error: BaseException, *, begun: bool = False, used: TokenUsage | None = None) -> None:
        """Release the reservation of a call that failed; waits for the ledger.

        After a timeout or a cancellation, or where the model had begun to answer, the provider may bill the call.  Then
        it costs what was used, or all that was reserved if that is not known.

        Args:
            error: What it failed with.
            begun: Whether the model had begun to answer.
            used: Its tokens, if they are known.

        Raises:
            BudgetError: As ``commit``.
            StoreError: The ledger did not answer; the reservation stays taken.
        """
        # Each HTTP client has timeouts of its own, with no base in common.
        timed_out = any("Timeout" in kind.__name__ for kind in type(error).__mro__)
        if begun or timed_out or not isinstance(error, Exception):
            self.commit(used)
        else:
            self.grant.commit(**dict.fromkeys(self._cost(self.most), 0))
