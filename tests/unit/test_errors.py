from __future__ import annotations

import pytest

from quartet.base import errors


def test_a_warning_is_one_line_on_standard_error(capsys):
    errors.warn("take\n  care,\tor not")
    assert capsys.readouterr() == ("", "quartet: warning: take care, or not\n")


def test_what_is_said_is_one_line_that_names_the_program(capsys):
    errors.say("stopped\nby  a user ")
    assert capsys.readouterr() == ("", "quartet: stopped by a user\n")


@pytest.mark.parametrize(("kind", "status"), [(errors.WorkError, 1), (errors.InputError, 2)])
def test_an_error_has_its_exit_status_and_is_caught_as_work(kind, status):
    with pytest.raises(errors.WorkError, match="why") as caught:
        raise kind("why")
    assert caught.value.exit_status == status
