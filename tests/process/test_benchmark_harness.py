"""The benchmarks' harness: what it reports, and what it leaves out rather than invent."""

import json
import os
from pathlib import Path

import pytest

from benchmarks import harness, report
from benchmarks.harness import Bench, Cell, Mark, Seat, Subject, SubjectError, reference, verdict
from benchmarks.payload import check, requests

pytestmark = pytest.mark.any_user


@pytest.fixture
def bench() -> Bench:
    return Bench(name="try", quick=True)


def test_floor_measured_gives_a_row_from_every_round_but_the_warm_up(bench: Bench) -> None:
    with bench.seats([reference("floor", "Floor")]) as seats:
        bench.interleave(seats, [Cell("floor", "floor", args={"count": 5})])
    (row,) = bench.rows
    assert (row.what, row.unit, row.n) == ("floor", "µs", 5 * bench.rounds)
    assert row.p50 and row.p99
    assert row.p50 <= row.p99


def test_missing_peer_gives_a_row_that_says_why_and_no_ratio(bench: Bench) -> None:
    with bench.seats([Subject("gone", "benchmarks.no_such_module:Peer")]) as seats:
        bench.interleave(seats, [Cell("gone", "gone")])
    bench.ratio("gone_over_floor", bench.value("gone"), 10.0)
    (row,) = bench.rows
    assert row.what == "gone: not measured: ModuleNotFoundError: No module named 'benchmarks.no_such_module'"
    assert (row.p50, row.p99, row.n, bench.ratios, bench.failed) == (None, None, 0, {}, False)


def test_missing_row_of_our_own_fails_the_run(bench: Bench) -> None:
    with bench.seats([Subject("ours", "benchmarks.no_such_module:Host", ours=True)]) as seats:
        assert seats == {}
    assert bench.failed


def test_references_only_leaves_our_rows_out(bench: Bench) -> None:
    bench.references_only = True
    with bench.seats([Subject("ours", "benchmarks.no_such_module:Host", ours=True)]) as seats:
        bench.interleave(seats, [Cell("ours", "ours")])
    assert (bench.rows, bench.failed) == ([], False)


def test_seat_pinned_keeps_its_whole_tree_on_one_core() -> None:
    seat = Seat(reference("floor", "Floor"), pinned=True)
    try:
        seat.ask("start")
        children = f"/proc/{seat.pid}/task/{seat.pid}/children"
        with open(children) as listed:
            tree = [seat.pid, *(int(pid) for pid in listed.read().split())]
        assert [len(os.sched_getaffinity(pid)) for pid in tree] == [1, 1]
    finally:
        seat.close()


def test_subject_that_ends_unasked_is_reported_with_its_last_words() -> None:
    seat = Seat(Subject("exit", "os:abort"), pinned=False)
    try:
        with pytest.raises(SubjectError, match="its process ended with -6"):
            seat.ask("start")
    finally:
        seat.close()


def test_subject_that_hangs_is_ended_and_reported() -> None:
    seat = Seat(Subject("hang", "signal:pause"), pinned=False, answer_timeout_s=0.5)
    try:
        with pytest.raises(SubjectError, match=r"did not answer within 0\.5 s"):
            seat.ask("start")
    finally:
        seat.close()


@pytest.mark.parametrize(
    ("measured", "at_least", "expected"),
    [
        pytest.param(2.0, False, "met", id="at the limit"),
        pytest.param(2.1, False, "missed", id="above"),
        pytest.param(1.9, True, "missed", id="below what is asked"),
        pytest.param(None, True, "not measured", id="absent"),
    ],
)
def test_verdict_says_what_was_measured(measured: float | None, at_least: bool, expected: str) -> None:
    ratios = {} if measured is None else {"key": measured}
    assert verdict(Mark(key="key", limit=2.0, at_least=at_least, about=""), ratios) == expected


def test_save_writes_the_fixed_format_and_keeps_quick_runs_apart(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    path = bench.save()
    assert path == tmp_path / "partial" / "try.json"
    assert list(json.loads(path.read_text())) == ["name", "when", "machine", "rows", "ratios"]


def test_check_of_a_reply_that_was_not_edited_raises() -> None:
    sent, got = requests(1)[0], requests(1)[0]
    with pytest.raises(RuntimeError, match="expected reader-0000 with 1 edits, got reader-0000 with 0"):
        check(sent, got, edits=1)


def test_report_replaces_only_what_lies_between_the_markers() -> None:
    page = f"# Title\n\n{report.BEGIN}\nold\n{report.END}\n\nAfter.\n"
    assert report.spliced(page, "### New\n") == f"# Title\n\n{report.BEGIN}\n\n### New\n\n{report.END}\n\nAfter.\n"


def test_report_of_a_page_without_markers_writes_nothing() -> None:
    with pytest.raises(SystemExit, match="lacks the lines"):
        report.spliced("# Title\n", "### New\n")


def test_report_tells_a_miss_and_what_holds_it_back(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    bench.ratio("good", 1.0)
    bench.ratio("bad", 3.0)
    marks = (
        Mark(key="good", limit=2, about="a", held_back_by="nothing"),
        Mark(key="bad", limit=2, about="b", held_back_by="the reason."),
    )
    lines = report.render(json.loads(bench.save().read_text()), "Try", marks).splitlines()
    assert lines[0] == "### Try"
    assert "| a | ≤ 2 | 1 | met |" in lines
    assert "| b | ≤ 2 | 3 | missed |" in lines
    assert [line for line in lines if line.startswith("* ")] == ["* *b*, missed: the reason."]
