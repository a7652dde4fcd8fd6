# SPDX-License-Identifier: Apache-2.0
"""Families of metrics, as monitoring reads them.

``arx_caps.http.metric_families`` has those of the other processes.
"""

from typing import Final, Literal, NamedTuple

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Family(NamedTuple):
    """A family of metrics: one name, and a series for each set of values of its labels.

    Attributes:
        name: Its name, without the ``_total`` of a counter.
        kind: Its type.
        meaning: What it measures; a Markdown phrase.
        labels: The names of its labels.  None takes a name of an agent, a session or a task.
        panel: The row of the dashboard that shows it; empty for none.
        buckets: The upper bounds of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    panel: str = ""
    buckets: tuple[float, ...] = SECONDS

    @property
    def series(self) -> str:
        """The name of its series; of a histogram without the endings ``_bucket``, ``_sum`` and ``_count``."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


BUILD: Final = Family(
    "arx_build_info",
    "gauge",
    "1, with the process's part of ARx, its version, and whether its verifier is `compiled` or `pure` Python",
    ("part", "version", "compiled"),
    "Realm",
)
VERIFIER: Final = (
    BUILD,
    Family("arx_verifier_ready", "gauge", "whether calls can be allowed", ("service",), "Verifiers"),
    Family("arx_verifier_decisions", "counter", "decisions", ("service", "decision", "reason"), "Calls"),
    Family(
        "arx_verifier_epoch_age_seconds",
        "gauge",
        "age of the verifier's view of the kill epoch; below 0 without one",
        ("service",),
        "Verifiers",
    ),
    Family("arx_verifier_journal_fill", "gauge", "how full the journal is, 0 to 1", ("service",), "Verifiers"),
    Family(
        "arx_verifier_ship_behind_seconds",
        "gauge",
        "how long this process has failed to ship; 0 if it works",
        ("service",),
        "Verifiers",
    ),
    Family("arx_verifier_lost_records", "counter", "records that this process declared lost", ("service",)),
    Family("arx_verifier_forked", "gauge", "1 when the log contradicts a checkpoint that was verified", ("service",)),
    Family("arx_verifier_keys_age_seconds", "gauge", "time since the mint last answered with the keys", ("service",)),
    Family(
        "arx_verifier_watching",
        "gauge",
        "until when calls go on that would be refused, seconds since 1970",
        ("service",),
    ),
)
