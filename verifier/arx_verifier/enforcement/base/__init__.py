# SPDX-License-Identifier: Apache-2.0
"""What every guard needs: the decision, its refusal as an answer, routes and parameters."""
