# SPDX-License-Identifier: Apache-2.0
"""Metrics of a verifier, and what a family of metrics is."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.metrics.families import Family as Family
else:
    open_door(__name__)
