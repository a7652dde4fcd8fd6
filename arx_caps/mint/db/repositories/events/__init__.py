# SPDX-License-Identifier: Apache-2.0
"""Tables of what happened and whom it is sent to."""
