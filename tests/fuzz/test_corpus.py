# SPDX-License-Identifier: Apache-2.0
"""Each input of the corpus keeps the law of its parser, and is decided in bounded time.  ``make fuzz`` finds more."""

import time

import pytest

from tests.fuzz import corpus, targets

SLOW_S = 5.0  # the longest of them takes milliseconds; a machine under load takes longer


@pytest.mark.parametrize("name", targets.NAMES)
def test_the_corpus_keeps_the_law(name: str) -> None:
    """
    No input of the corpus breaks the law of its target.
    """
    target, inputs = targets.load(name), corpus.inputs(name)
    assert inputs, "python -m tests.fuzz.corpus writes them"
    for data in inputs:
        began = time.process_time()
        target.check(data)
        assert time.process_time() - began < SLOW_S, data
