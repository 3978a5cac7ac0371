import pickle
from pathlib import Path

import numpy as np
import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.evaluation.statistics_file import read_statistics, statistics_width

MEAN, COVARIANCE = np.array([1.0, 2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])


def save(tmp_path, **arrays):
    path = tmp_path / "stats.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_layouts_are_read(tmp_path, dtype):
    """clean-fid writes mu and sigma; EDM writes them too, among others."""
    path = save(tmp_path, mu=MEAN.astype(dtype), sigma=COVARIANCE.astype(dtype), more=np.zeros(9))
    mean, covariance = read_statistics(path)
    assert mean.dtype == covariance.dtype == np.float64
    np.testing.assert_array_equal(mean, MEAN)
    np.testing.assert_array_equal(covariance, COVARIANCE)
    assert statistics_width(path) == 2


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mean": MEAN}, "no array 'mu', but mean"),
        ({"mu": MEAN}, "no array 'sigma', but mu"),
        ({"mu": COVARIANCE, "sigma": COVARIANCE}, r"'mu' of shape \(2, 2\)"),
        ({"mu": MEAN, "sigma": np.eye(3)}, r"mu of 2 numbers, but sigma of shape \(3, 3\)"),
        ({"mu": MEAN, "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])}, "not symmetric"),
        ({"mu": MEAN * np.nan, "sigma": COVARIANCE}, "NaN or infinity in 'mu'"),
        ({"mu": np.array(["a", "b"]), "sigma": COVARIANCE}, "no numbers"),
        ({"mu": np.array([{}, {}]), "sigma": COVARIANCE}, "no numbers"),
    ],
)
def test_other_files_are_refused(tmp_path, arrays, words):
    path = save(tmp_path, **arrays)
    with pytest.raises(UserError, match=words) as caught:
        read_statistics(path)
    assert caught.value.where == str(path)
    assert "mu (D,)" in caught.value.fix


@pytest.mark.parametrize("content", [b"", b"mu sigma", b"PK\x03\x04"])
def test_what_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "stats.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is no \.npz"):
        read_statistics(path)
    single = tmp_path / "one.npy"
    np.save(single, MEAN)
    with pytest.raises(UserError, match="single array"):
        read_statistics(single)
    np.save(single, np.ones((7, 2)))
    with pytest.raises(UserError, match=r"single array \(7 x 2\)") as caught:
        read_statistics(single)
    assert "x.mean(0)" in caught.value.fix


def pickled(tmp_path, content, protocol=4):
    path = tmp_path / "stats.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f8"])
@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("others", [{}, {"fd_dinov2": {"mu": np.zeros(3), "sigma": np.eye(3)}}])
def test_statistics_of_edm2_are_read(tmp_path, dtype, protocol, others):
    own = {"mu": MEAN.astype(dtype), "sigma": np.asfortranarray(COVARIANCE.astype(dtype))}
    path = pickled(tmp_path, {**others, "fid": own}, protocol)
    mean, covariance = read_statistics(path)
    np.testing.assert_array_equal(mean, MEAN)
    np.testing.assert_array_equal(covariance, COVARIANCE)
    assert statistics_width(path) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (1, "a pickle of a int"),
        ({"a": {"mu": MEAN}, "b": {}}, "statistics of a, b, but none of fid"),
        ({"fid": {"mu": MEAN}}, "no array 'sigma', but mu"),
        ({"fid": {"mu": np.array([1, 2]), "sigma": COVARIANCE}}, "not of bytes or floats"),
        ({"fid": {"mu": Path("x"), "sigma": COVARIANCE}}, "pathlib.*which no file of statistics"),
    ],
)
def test_other_pickles_are_refused(tmp_path, content, words):
    with pytest.raises(UserError, match=words) as caught:
        read_statistics(pickled(tmp_path, content))
    assert caught.value.fix


def test_other_names_are_answered_with_what_to_write(tmp_path):
    with pytest.raises(UserError) as caught:
        read_statistics(save(tmp_path, mean=MEAN, cov=COVARIANCE))
    assert "mu=f['mean'], sigma=f['cov']" in caught.value.fix
