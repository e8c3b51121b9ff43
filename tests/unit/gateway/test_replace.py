"""What the demo of a replacement calls lost."""

from __future__ import annotations

from collections import Counter

import pytest

from examples.gateway.replace import Told


@pytest.mark.parametrize(
    ("outcomes", "calls", "failures", "lost", "text"),
    [
        pytest.param({"answered": 10}, 20, {}, 0, "It got 20 calls; 0 were lost.", id="none"),
        pytest.param({"answered": 10}, 25, {}, 0, "It got 25 calls; 0 were lost.", id="others ask too"),
        pytest.param({"answered": 9, "status 502": 1}, 20, {}, 1, "It got 20 calls; 1 were lost: status 502 (1)", id="no answer"),
        pytest.param({"answered": 10}, 20, {"outcome-unknown": 2}, 2, "20 calls; 2 were lost: outcome-unknown (2)", id="no result"),
        pytest.param({"answered": 10}, 17, {}, 3, "It got 17 calls; 3 were lost.", id="never made"),
    ],
)
def test_lost_is_what_had_no_answer_no_result_or_was_not_made(
    outcomes: dict[str, int], calls: int, failures: dict[str, int], lost: int, text: str
) -> None:
    told = Told(times=2, seconds=1.5, clients=4, outcomes=Counter(outcomes), calls=calls, failures=Counter(failures))
    assert told.lost == lost
    assert str(told).startswith("answer-cache was replaced 2 times in 1.5 s, while 4 clients made 10 requests.\n")
    assert str(told).endswith(text)
