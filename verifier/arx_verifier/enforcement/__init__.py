# SPDX-License-Identifier: Apache-2.0
"""Policy enforcement before an application or a function: adapters, and the answers to refusals.  SPEC 8.4, 13."""
