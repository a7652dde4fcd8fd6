# SPDX-License-Identifier: Apache-2.0
"""A task's token: bundle, attenuation, signing, approvals, and the auth of HTTP clients."""
