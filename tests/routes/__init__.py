# SPDX-License-Identifier: Apache-2.0
"""Random applications of Starlette, FastAPI, Django and Flask: what ran is what was judged.

It runs where nothing but ``arx-verifier`` and the framework is installed: ``python -m tests.routes``; ``make routes``
runs it in an environment for each version.
"""
