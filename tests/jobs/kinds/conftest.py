"""Checking what a job expects of its inputs."""

import pytest

from slimctl.jobs.base.facts import Facts, FieldError


@pytest.fixture
def refused():
    """`refused(spec, data=Facts(...))` is the error with which a job refuses its inputs."""

    def check(spec, **inputs) -> FieldError:
        with pytest.raises(FieldError) as error:
            spec.expect({name: facts or Facts() for name, facts in inputs.items()})
        assert error.value.what
        return error.value

    return check
