# SPDX-License-Identifier: Apache-2.0
"""Metrics of the verifiers of a process, and what a family of metrics is."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.metrics.counted_decisions import CountedDecisions as CountedDecisions
    from arx_verifier.metrics.counted_decisions import Counts as Counts
    from arx_verifier.metrics.export import SHIPPING as SHIPPING
    from arx_verifier.metrics.export import SampleReader as SampleReader
    from arx_verifier.metrics.export import Samples as Samples
    from arx_verifier.metrics.export import export_decisions as export_decisions
    from arx_verifier.metrics.families import BUILD as BUILD
    from arx_verifier.metrics.families import VERIFIER as VERIFIER
    from arx_verifier.metrics.families import Family as Family
else:
    open_door(__name__)
