"""What is personal data, and what only looks like it."""

from __future__ import annotations

import time

import pytest
from pii_redactor.detect import KINDS, find


def found(text: str, kinds: tuple[str, ...] = KINDS) -> list[tuple[str, str]]:
    return [(kind, text[start:end]) for start, end, kind in find(text, kinds)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to ada@example.org.", ("email", "ada@example.org")),
        ("<ada.love-lace+news@mail.example.co.uk>", ("email", "ada.love-lace+news@mail.example.co.uk")),
        ("jörg@bücher.example", ("email", "jörg@bücher.example")),
        ("mailto:a@b.xn--p1ai,", ("email", "a@b.xn--p1ai")),
        ("https://ada:pw@example.org/", ("email", "pw@example.org")),
        ("pay with 4111 1111 1111 1111 please", ("card", "4111 1111 1111 1111")),
        ("4111-1111-1111-1111", ("card", "4111-1111-1111-1111")),
        ("Visa-4111111111111111.", ("card", "4111111111111111")),
        ("4111 1111 1111 1111 123", ("card", "4111 1111 1111 1111")),
        ("4111 1111 1111 1111 12/29", ("card", "4111 1111 1111 1111")),
        ("amex 3782 822463 10005", ("card", "3782 822463 10005")),
        ("mc 5555555555554444", ("card", "5555555555554444")),
        ("mc2 2223003122003222", ("card", "2223003122003222")),
        ("diners 3056 930902 5904", ("card", "3056 930902 5904")),
        ("jcb 3530111333300000", ("card", "3530111333300000")),
        ("discover 6011111111111117", ("card", "6011111111111117")),
        ("IBAN DE89 3704 0044 0532 0130 00 is mine", ("iban", "DE89 3704 0044 0532 0130 00")),
        ("gb29nwbk60161331926819", ("iban", "gb29nwbk60161331926819")),
        ("FR14-2004-1010-0505-0001-3M02-606.", ("iban", "FR14-2004-1010-0505-0001-3M02-606")),
        ("NO9386011117947", ("iban", "NO9386011117947")),
        ("+49 30 1234567", ("phone", "+49 30 1234567")),
        ("+49 (0)30 / 1234567", ("phone", "+49 (0)30 / 1234567")),
        ("tel:+4915112345678", ("phone", "+4915112345678")),
        ("0049 30 12345678", ("phone", "0049 30 12345678")),
        ("030 1234567!", ("phone", "030 1234567")),
        ("(030) 123 4567", ("phone", "(030) 123 4567")),
        ("(call 030 1234567)", ("phone", "030 1234567")),
        ("01 23 45 67 89", ("phone", "01 23 45 67 89")),
        ("(415) 555-2671", ("phone", "(415) 555-2671")),
        ("1-415-555-2671", ("phone", "1-415-555-2671")),
        ("+1 (415) 555-2671", ("phone", "+1 (415) 555-2671")),
        ("415.555.2671", ("phone", "415.555.2671")),
        ("Phone: 01701234567", ("phone", "01701234567")),
        ("(+49) 30 1234567", ("phone", "(+49) 30 1234567")),
    ],
)
def test_find_on_personal_data_reports_exactly_it(text: str, expected: tuple[str, str]) -> None:
    assert found(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "version 1.22.333 and v2.10.15+20240115",
        "2024-11-20 10:15:00, 20.11.2024, 05.01.2024 13:30, 01/02/2024 10, 05.01.2024 13 1234",
        "d41d8cd98f00b204e9800998ecf8427e 0123456789abcdef",
        "550e8400-e29b-41d4-a716-446655440000",
        "order 1234567890123456, order 2024-0301234567, ORD-030 1234567",
        "4111 1111 1111 1112",
        "4111111111111112",
        "1234 0044 1234 5678",
        "DE89 3704 0044 0532 0130 01",
        "DE89 3704 0044 0532 0130 0x1",
        "ZZ89 1234",
        "0.4111111111111111 and 4111111111111111.5 and 4111111111111111x",
        "package@1.2.3 @scope/name a@b a@b@c",
        "192.168.1.100:8080 10.0.0.1",
        "ISBN 0-306-40615-2 and 978-3-16-148410-0",
        "$0301 234567 and 1 234 567 890 and +1000 and +0123456789",
        "1700000000 1700000001",
        "hotel 123456789",
        "0123  4567890",
        "",
    ],
)
def test_find_on_other_numbers_reports_nothing(text: str) -> None:
    assert found(text) == []


def test_find_on_several_reports_all_in_order() -> None:
    text = "a@example.org, +1 415 555 2671, 4111 1111 1111 1111; DE89370400440532013000 b@example.org"
    assert found(text) == [
        ("email", "a@example.org"),
        ("phone", "+1 415 555 2671"),
        ("card", "4111 1111 1111 1111"),
        ("iban", "DE89370400440532013000"),
        ("email", "b@example.org"),
    ]


def test_find_with_kinds_left_out_reports_no_part_of_them_as_another() -> None:
    text = "DE89 3704 0044 0532 0130 00, a@example.org"
    assert found(text, ("phone", "email")) == [("email", "a@example.org")]


HOSTILE = [
    "a" * 100,
    "a@",
    "a.",
    "a@a.",
    "@",
    "x" * 64 + "@",
    "a@" + "b" * 63 + ".",
    "0",
    "0 ",
    "0-",
    "01 ",
    "(0",
    "((((",
    "+",
    "+1 ",
    "4111 ",
    "4111 1111 1111 1112 ",
    "DE89 ",
    "DE",
    "de89" + "a" * 18,
    "[EMAIL_1",
    "00 1 ",
    "phone ",
    "\0",
]


@pytest.mark.parametrize("unit", HOSTILE, ids=lambda unit: repr(unit[:12]))
def test_find_on_hostile_text_takes_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = (unit * (size // len(unit) + 1))[:size]
        best = float("inf")
        for _ in range(2):
            started = time.process_time()
            find(text)
            best = min(best, time.process_time() - started)
        return best

    small, large = seconds(25_000), seconds(100_000)
    # Four times the text: 4 when linear, 16 when quadratic. Below 20 ms the clock's noise is larger than what is measured.
    assert large < 0.02 or large / small < 9
    assert large < 2.0
