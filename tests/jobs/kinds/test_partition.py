import numpy as np
import pytest
from pydantic import ValidationError

from slimctl.jobs.base.artifacts import FeatureNet
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.kinds.partition import SplitConditions
from slimctl.models.networks.classifier.spec import ClassifierSpec
from slimctl.models.spec import ImageShape

TEN = Facts(ImageShape(channels=1, size=8, classes=10))


@pytest.fixture
def data(make_dataset):
    return make_dataset(count=40, classes=10)


@pytest.mark.parametrize(
    ("method", "subsets"),
    [
        ("consecutive", ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9))),
        ("strided", ((0, 3, 6, 9), (1, 4, 7), (2, 5, 8))),
    ],
)
def test_labels_are_split(run_job, data, method, subsets):
    made = run_job(SplitConditions(data="d", method=method, count=3), data=data)
    assert made.subsets == subsets
    assert made.label_counts == data.label_counts
    assert (made.method, made.conditions) == (method, 10)


def test_a_random_split_follows_the_seed(run_job, data):
    splits = [
        run_job(SplitConditions(data="d", method="random", count=5, seed=seed), data=data).subsets
        for seed in (1, 1, 2)
    ]
    assert splits[0] == splits[1] != splits[2]


def test_a_list_is_taken_as_it_is(run_job, data):
    subsets = ((9, 0), (1, 2, 3, 4), (5, 6, 7, 8))
    spec = SplitConditions(data="d", method="explicit", subsets=subsets)
    assert run_job(spec, data=data).subsets == ((0, 9), *subsets[1:])
    assert spec.parts() == 3


@pytest.fixture
def table(tmp_path):
    """Embeddings in which the odd conditions are far from the even ones."""
    path = tmp_path / "embeddings.npy"
    rows = np.arange(10)[:, None] % 2 * 5.0 + np.random.default_rng(0).normal(size=(10, 4)) * 0.1
    np.save(path, rows.astype(np.float32))
    return path


def test_embeddings_are_clustered_with_or_without_data(run_job, data, table):
    apart = ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9))
    fields = {"method": "kmeans", "count": 2, "embeddings": str(table)}
    alone = run_job(SplitConditions(**fields))
    assert (alone.subsets, alone.label_counts) == (apart, ())
    assert run_job(SplitConditions(data="d", **fields), data=data).subsets == apart


def test_the_content_of_the_embeddings_is_in_the_key(table):
    spec = SplitConditions(method="kmeans", count=2, embeddings=str(table))
    before = spec.fingerprint()
    np.save(table, np.zeros((10, 4)))
    assert spec.fingerprint() != before


def test_mean_features_are_clustered(run_job, data, commit):
    network = ClassifierSpec(channels=4, channel_multipliers=(1,), features=8)
    features = FeatureNet(
        image=data.image, network=network.model_dump(), dimensions=8, accuracy=0.5
    )
    stored = commit(features, "train_features-1", weights=network.build(data.image).state_dict())
    spec = SplitConditions(data="d", method="kmeans", count=5, features="f")
    made = run_job(spec, data=data, features=stored)
    assert sorted(map(len, made.subsets)) == [2] * 5


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "d"}, "give count"),
        ({"data": "d", "count": 2, "subsets": [[0]], "method": "explicit"}, "give count"),
        ({"data": "d", "subsets": [[0]]}, "with no other method"),
        ({"data": "d", "count": 2, "method": "explicit"}, "give subsets with"),
        ({"data": "d", "count": 2, "method": "kmeans"}, "give one of the two"),
        ({"data": "d", "count": 2, "features": "f"}, "features belong to method: kmeans"),
        ({"count": 2}, "give data"),
        ({"count": 2, "method": "kmeans", "features": "f"}, "give data"),
    ],
)
def test_fields_that_do_not_go_together(fields, message):
    with pytest.raises(ValidationError, match=message):
        SplitConditions.model_validate(fields)


def explicit(*subsets):
    return {"method": "explicit", "subsets": subsets}


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"count": 11}, "count", "count is 11, but 'd' has 10 classes"),
        (explicit(range(5), range(4, 10)), "subsets", "label 4 is in the subsets 0, 1"),
        (explicit(range(4), range(5, 10)), "subsets", "label 4 in no subset"),
        (explicit(range(10), (11,)), "subsets", "there is no label 11"),
    ],
)
def test_a_split_that_the_labels_forbid_is_reported_before_anything_runs(fields, field, message):
    with pytest.raises(FieldError, match=message) as caught:
        SplitConditions.model_validate({"data": "d"} | fields).expect({"data": TEN})
    assert caught.value.field == field


def test_unlabelled_data_cannot_be_split():
    plain = Facts(ImageShape(channels=1, size=8))
    with pytest.raises(FieldError, match="'d' has no labels"):
        SplitConditions(data="d", count=2).expect({"data": plain})


def test_a_subset_without_data(attempt, commit, data):
    counts = (4, 4, 4, 4, 4, 4, 4, 4, 0, 0)
    empty = commit(data.model_copy(update={"label_counts": counts}), "load_dataset-gap")
    done = attempt(SplitConditions(data="d", count=5), data=empty)
    assert done.failure == "UserError"
    assert "part 4 holds the labels [8, 9], of which there is no image" in done.what
    known = Facts(data.image, label_counts=counts)
    spec = SplitConditions.model_validate({"data": "d"} | explicit(range(8), (8, 9)))
    with pytest.raises(FieldError, match=r"no image of the labels \[8, 9\]"):
        spec.expect({"data": known})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros(4), "no table"),
        (np.full((4, 2), np.nan), "no table"),
        (np.zeros((1, 2)), "count is 2, but .* has 1 rows"),
    ],
)
def test_embeddings_that_are_no_table(tmp_path, rows, message):
    np.save(tmp_path / "e.npy", rows)
    spec = SplitConditions(method="kmeans", count=2, embeddings=str(tmp_path / "e.npy"))
    with pytest.raises(FieldError, match=message):
        spec.preflight()


def test_embeddings_that_are_no_array(tmp_path):
    (tmp_path / "e.npy").write_text("not an array")
    for name in ("e.npy", "missing.npy"):
        spec = SplitConditions(method="kmeans", count=2, embeddings=str(tmp_path / name))
        with pytest.raises(FieldError, match="cannot be read"):
            spec.preflight()


def test_embeddings_of_other_conditions(attempt, data, tmp_path):
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(9, 2)))
    spec = SplitConditions(data="d", method="kmeans", count=2, embeddings=str(tmp_path / "e.npy"))
    done = attempt(spec, data=data)
    assert "has 9 rows, but the data has 10 classes" in done.what
