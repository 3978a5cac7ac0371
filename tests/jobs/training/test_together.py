import pytest
from gloo import on_gloo

from slimctl.jobs.base.errors import DamagedArtifact
from slimctl.jobs.training.together import together


def missing(name):
    def read():
        raise DamagedArtifact(name, "is missing", "submit again")

    return read


def nothing():
    """Everything is there."""


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (missing("shard-2"), missing("shard-5"), "2 damaged: shard-2: is missing, shard-5: is m"),
        (nothing, missing("shard-5"), "1 damaged: shard-5: is missing"),
        (missing("shard-2"), missing("shard-2"), "1 damaged: shard-2: is missing"),
    ],
)
def test_what_is_missing_on_different_workers_is_named_by_all(tmp_path, first, second, what):
    answers = on_gloo(tmp_path, lambda rank: together((first, second)[rank]))
    assert all(f"DamagedArtifact: {what}" in answer for answer in answers)
    assert all("fix: submit again" in answer for answer in answers)


def test_where_all_is_well_all_go_on(tmp_path):
    assert on_gloo(tmp_path, lambda rank: together(nothing)) == ["", ""]


def test_one_worker_says_it_as_it_is():
    with pytest.raises(DamagedArtifact, match="shard-2: is missing"):
        together(missing("shard-2"))
