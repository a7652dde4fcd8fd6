# SPDX-License-Identifier: Apache-2.0
"""The error of all twins."""


class ConfusedError(AssertionError):
    """Something ran that was not judged, or was refused without a reason."""
