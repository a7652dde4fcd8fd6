# SPDX-License-Identifier: Apache-2.0
"""What every call at the gateway needs: settings, ASGI, rates, spans, answers of upstreams."""
