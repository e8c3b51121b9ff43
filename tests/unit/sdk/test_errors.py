from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import pytest

from annexe_sdk import Reject


@pytest.mark.parametrize("status", [400, 599, HTTPStatus.TOO_MANY_REQUESTS])
@pytest.mark.parametrize("retry_after_s", [None, 0, 0.5, 365 * 86400])
def test_reject_keeps_what_it_was_made_of(status: int, retry_after_s: float | None) -> None:
    error = Reject("full", "no room", status=status, retry_after_s=retry_after_s)
    assert (error.code, error.message, error.status, error.retry_after_s) == ("full", "no room", status, retry_after_s)
    assert str(error) == "no room"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"code": 7}, "code: expected text, got 7"),
        ({"message": None}, "message: expected text, got None"),
        ({"status": "429"}, "status: expected a whole number, got '429'"),
        ({"status": True}, "status: expected a whole number, got True"),
        ({"status": 429.0}, "status: expected a whole number, got 429.0"),
        ({"retry_after_s": "5"}, "retry_after_s: expected a number of seconds or None, got '5'"),
        ({"retry_after_s": True}, "retry_after_s: expected a number of seconds or None, got True"),
        ({"retry_after_s": Decimal(5)}, "retry_after_s: expected a number of seconds or None, got Decimal"),
        ({"retry_after_s": timedelta(seconds=5)}, "retry_after_s: expected a number of seconds or None, got datetime.timedelta"),
    ],
)
def test_reject_of_the_wrong_type_is_a_type_error(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError) as caught:
        Reject(**{"code": "full", "message": "no room"} | wrong)
    assert str(caught.value).startswith(f"Reject: {text}")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"status": 399}, "status: expected 400 to 599, got 399"),
        ({"status": HTTPStatus.OK}, "status: expected 400 to 599, got 200"),
        ({"status": 600}, "status: expected 400 to 599, got 600"),
        ({"retry_after_s": -1}, "retry_after_s: expected 0 to 31536000 seconds, got -1"),
        ({"retry_after_s": float("inf")}, "retry_after_s: expected 0 to 31536000 seconds, got inf"),
        ({"retry_after_s": float("nan")}, "retry_after_s: expected 0 to 31536000 seconds, got nan"),
        ({"retry_after_s": 365 * 86400 + 1}, "retry_after_s: expected 0 to 31536000 seconds, got 31536001"),
    ],
)
def test_reject_out_of_bounds_is_a_value_error(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match="Reject") as caught:
        Reject(**{"code": "full", "message": "no room"} | wrong)
    assert str(caught.value) == f"Reject: {text}"
