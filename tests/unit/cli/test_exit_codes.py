"""Exit codes: every error has one, and those that a script would tell apart differ."""

from __future__ import annotations

from annexe import errors
from annexe.cli.exit_codes import EXIT_CODES, INTERRUPTED, OTHER_CODES, exit_code_of


def test_every_error_has_an_exit_code() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.AnnexeError)}
    assert set(EXIT_CODES) == classes
    assert len(classes) > 30


def test_exit_codes_are_none_that_mean_something_else() -> None:
    own = {code for cls, code in EXIT_CODES.items() if cls is not errors.AnnexeError}
    assert own.isdisjoint(OTHER_CODES)
    # The shell keeps 126 and up for itself.
    assert all(2 < code < 126 for code in own)
    assert INTERRUPTED == 130


def test_exit_code_of_a_later_error_is_that_of_the_nearest_class_above() -> None:
    class LateError(errors.CallTimeoutError):
        code = "late"

    assert exit_code_of(LateError("too late")) == EXIT_CODES[errors.CallTimeoutError]
    assert exit_code_of(errors.HostNotRunningError("none")) == 3
