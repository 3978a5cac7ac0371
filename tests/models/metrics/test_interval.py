"""Student's t and the interval of a mean against scipy and by their coverage."""

import math

import numpy as np
import pytest
import scipy.stats

from slimctl.models.metrics.interval import mean_interval, student_t


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 49, 100, 999])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_quantiles_agree_with_scipy(degrees, confidence):
    expected = scipy.stats.t.ppf((1 + confidence) / 2, degrees)
    assert student_t(confidence, degrees) == pytest.approx(expected, rel=1e-11)


def test_interval_agrees_with_scipy():
    values = [5.02, 5.11, 4.95, 5.30]
    interval = mean_interval(values)
    expected = scipy.stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-11)
    assert interval.mean == pytest.approx(np.mean(values), rel=1e-14)
    assert interval.count == 4


def test_equal_values_have_an_interval_of_no_width():
    interval = mean_interval([0.5, 0.5, 0.5])
    assert interval.low == interval.mean == interval.high == 0.5


def test_intervals_of_three_seeds_cover_the_mean_as_often_as_they_say():
    draws = np.random.default_rng(0).normal(7.0, 2.0, size=(4000, 3))
    intervals = [mean_interval(row.tolist(), confidence=0.9) for row in draws]
    covered = np.mean([interval.low <= 7.0 <= interval.high for interval in intervals])
    assert covered == pytest.approx(0.9, abs=0.02)


def test_refuses_what_has_no_interval():
    with pytest.raises(ValueError, match="at least two seeds"):
        mean_interval([1.0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        mean_interval([1.0, math.nan])
    with pytest.raises(ValueError, match=r"confidence is 95"):
        mean_interval([1.0, 2.0], confidence=95.0)
    with pytest.raises(ValueError, match="degrees of freedom are 0"):
        student_t(0.95, 0)
