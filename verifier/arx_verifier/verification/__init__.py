# SPDX-License-Identifier: Apache-2.0
"""The decision: a credential and a request in, a grant or a refusal out.  SPEC 11."""
