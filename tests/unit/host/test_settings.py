"""What an application writes wrongly is refused before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annexe import Host


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        pytest.param({"strategy": "proces"}, "strategy: expected 'process' or 'zygote' or 'in-process', got 'proces'", id="strategy"),
        pytest.param({"strategy": {"a": "in_process"}}, "strategy['a']: expected 'process' or", id="strategy of one plugin"),
        pytest.param({"on_failure": {"t.edit": "close"}}, "on_failure['t.edit']: expected 'open' or 'closed', got 'close'", id="policy"),
        pytest.param({"codecs": ("msgpak",)}, "codecs[0]: expected 'msgpack' or 'json', got 'msgpak'", id="codec"),
        pytest.param({"codecs": ()}, "codecs: expected at least one", id="no codec"),
        pytest.param({"default_deadline_s": -1}, "default_deadline_s: expected seconds above 0, got -1", id="deadline"),
        pytest.param({"default_deadline_s": float("nan")}, "got nan", id="deadline that is no number"),
        pytest.param({"grants": "manifest", "production": True}, "for development", id="production"),
    ],
)
def test_what_is_written_wrongly_is_refused(tmp_path: Path, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"^Host: ") as caught:
        Host(state_dir=tmp_path, **settings)
    assert text in str(caught.value)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"strategy.*codecs"):
        Host(state_dir=tmp_path, strategy="x", codecs=("y",))  # type: ignore[arg-type]
