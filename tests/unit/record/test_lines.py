from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe.record.lines import LineSplitter


def lines_of(splitter: LineSplitter) -> list[tuple[bytes, int]]:
    lines = []
    while (line := splitter.next_line()) is not None:
        lines.append(line)
    return lines


def test_splitter_yields_complete_lines_and_keeps_the_rest() -> None:
    splitter = LineSplitter(100)
    splitter.feed(b"one\n\ntwo\nthr")
    assert lines_of(splitter) == [(b"one", 0), (b"", 0), (b"two", 0)]
    splitter.feed(b"ee\n")
    assert lines_of(splitter) == [(b"three", 0)]
    assert splitter.last_line() is None


def test_splitter_last_line_without_line_feed_is_given_at_the_end() -> None:
    splitter = LineSplitter(4)
    splitter.feed(b"a\nlast!")
    assert lines_of(splitter) == [(b"a", 0)]
    assert splitter.last_line() == (b"last", 1)


def test_splitter_100_mb_line_is_held_in_bounded_memory_and_counted() -> None:
    splitter = LineSplitter(16 * 1024)
    chunk = b"x" * 65536
    for _ in range(1600):
        splitter.feed(chunk)
        assert splitter.next_line() is None
        assert splitter.held_bytes <= 16 * 1024
    splitter.feed(b"end\nnext\n")
    assert lines_of(splitter) == [(b"x" * 16384, 1600 * 65536 - 16384 + 3), (b"next", 0)]


def test_splitter_feeding_before_the_chunk_is_used_up_is_refused() -> None:
    splitter = LineSplitter(10)
    splitter.feed(b"a\nb\n")
    splitter.next_line()
    with pytest.raises(RuntimeError, match="used up"):
        splitter.feed(b"c")


def test_splitter_skipping_counts_complete_lines_and_keeps_the_rest() -> None:
    splitter = LineSplitter(100)
    splitter.feed(b"beginning")
    assert splitter.next_line() is None
    splitter.feed(b" of one\ntwo\nthree\nfo")
    assert splitter.skip_lines() == 3
    assert splitter.is_used_up
    splitter.feed(b"ur\n")
    assert lines_of(splitter) == [(b"four", 0)]


def test_splitter_skipping_within_a_line_keeps_it() -> None:
    splitter = LineSplitter(100)
    splitter.feed(b"no end")
    assert splitter.skip_lines() == 0
    splitter.feed(b" yet\n")
    assert splitter.skip_lines() == 1
    assert splitter.last_line() is None


@given(st.lists(st.binary(max_size=30).map(lambda text: text.replace(b"\x00", b"\n")), max_size=20), st.integers(1, 20))
def test_splitter_loses_no_byte_however_the_stream_is_cut(chunks: list[bytes], max_line_bytes: int) -> None:
    splitter = LineSplitter(max_line_bytes)
    found: list[tuple[bytes, int]] = []
    for chunk in chunks:
        splitter.feed(chunk)
        found += lines_of(splitter)
    *whole, rest = b"".join(chunks).split(b"\n")
    assert found == [(line[:max_line_bytes], max(0, len(line) - max_line_bytes)) for line in whole]
    assert splitter.last_line() == ((rest[:max_line_bytes], max(0, len(rest) - max_line_bytes)) if rest else None)
