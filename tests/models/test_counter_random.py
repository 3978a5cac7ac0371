import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from slimctl.models.counter_random import (
    Stream,
    categorical,
    data_order,
    integers,
    normal,
    philox,
    shuffled_index,
    uniform,
)

KNOWN_ANSWERS = [
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def scalar_philox(key, counter):
    """The same generator in Python integers of any length, from its definition."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def words(counter):
    return tuple(torch.tensor([word], dtype=torch.int64) for word in counter)


@pytest.mark.parametrize(("key", "counter", "answer"), KNOWN_ANSWERS)
def test_random123_known_answers(key, counter, answer):
    assert tuple(int(word) for word in philox(key, words(counter))) == answer


word = st.integers(0, 2**32 - 1)


@given(st.tuples(word, word), st.tuples(word, word, word, word))
@settings(max_examples=50, deadline=None)
def test_agrees_with_python_integers(key, counter):
    assert tuple(int(w) for w in philox(key, words(counter))) == scalar_philox(key, counter)


def test_counter_layout():
    """Numbers of a sample are words of the documented counter: a contract with stored pairs."""
    seed, index, step, stream = 2**63 + 12345, 2**40 + 77, 2**31 + 5, Stream.NOISE
    drawn = integers(seed, stream, torch.tensor([index]), 2**31 - 1, (6,), step)
    expected = []
    for block in range(2):
        counter = (block, index % 2**32, step, (index >> 32 << 16) + stream)
        expected += scalar_philox((seed % 2**32, seed >> 32), counter)
    assert drawn[0].tolist() == [(w * (2**31 - 1)) >> 32 for w in expected[:6]]


def test_values_are_frozen():
    """Generator version 1: changing these numbers means raising GENERATOR_VERSION."""
    index = torch.tensor([0, 1, 50_000])
    drawn = normal(7, Stream.PAIR_NOISE, index, (2,), step=3)
    expected = torch.tensor(FROZEN_NORMALS)
    torch.testing.assert_close(drawn, expected, rtol=1e-6, atol=1e-6)
    assert integers(7, Stream.PAIR_LABEL, index, 10).tolist() == FROZEN_LABELS
    assert data_order(7, torch.tensor([0, 1, 2, 99, 100]), 100).tolist() == FROZEN_ORDER


FROZEN_NORMALS = [[0.7288839, 0.7178203], [0.0778954, 0.1981322], [-1.3569421, 0.9068124]]
FROZEN_LABELS = [8, 2, 1]
FROZEN_ORDER = [75, 14, 78, 93, 68]


def test_a_sample_does_not_depend_on_its_batch():
    shape = (3, 8, 8)
    index = torch.arange(1000, 1300)
    whole = normal(5, Stream.NOISE, index, shape, step=9)
    chosen = torch.tensor([299, 3, 3, 120])
    assert torch.equal(normal(5, Stream.NOISE, index[chosen], shape, step=9), whole[chosen])
    one = normal(5, Stream.NOISE, index[17:18], shape, step=9)
    assert torch.equal(one, whole[17:18])


def test_a_large_batch_is_computed_in_pieces_with_the_same_numbers():
    index = torch.arange(40)
    shape = (3, 64, 64)  # 3072 blocks a sample: the batch is split
    whole = normal(1, Stream.NOISE, index, shape)
    assert torch.equal(whole[31:33], normal(1, Stream.NOISE, index[31:33], shape))
    steps = torch.arange(40) // 20
    mixed = normal(1, Stream.NOISE, index, shape, step=steps)
    assert torch.equal(mixed[:20], whole[:20])
    assert torch.equal(mixed[20:], normal(1, Stream.NOISE, index[20:], shape, step=1))


def test_a_longer_sample_begins_with_a_shorter_one():
    index = torch.arange(5)
    assert torch.equal(uniform(0, 0, index, (3,)), uniform(0, 0, index, (10,))[:, :3])


def test_seed_stream_step_and_index_all_matter():
    index = torch.arange(3)
    base = normal(1, 2, index, (64,), step=3)
    others = [
        normal(2, 2, index, (64,), step=3),
        normal(1 + 2**32, 2, index, (64,), step=3),
        normal(1, 3, index, (64,), step=3),
        normal(1, 2, index, (64,), step=4),
        normal(1, 2, index + 3, (64,), step=3),
        normal(1, 2, index + 2**32, (64,), step=3),
    ]
    for other in others:
        assert abs(np.corrcoef(base.flatten(), other.flatten())[0, 1]) < 0.25
        assert not torch.isin(other, base).any()


def test_normals_are_normal():
    drawn = normal(3, Stream.NOISE, torch.arange(2000), (128,)).double().flatten().numpy()
    n = len(drawn)
    assert abs(drawn.mean()) < 4 / math.sqrt(n)
    assert abs(drawn.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(stats.skew(drawn)) < 4 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(drawn)) < 4 * math.sqrt(24 / n)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    beyond_four = (np.abs(drawn) > 4).sum()
    assert abs(beyond_four - n * 2 * stats.norm.sf(4)) < 4 * math.sqrt(n * 2 * stats.norm.sf(4))


def test_numbers_of_a_block_are_uncorrelated():
    drawn = normal(3, Stream.NOISE, torch.arange(50_000), (8,)).double()
    for values in (drawn, drawn.square()):
        correlation = np.corrcoef(values.T.numpy())
        assert np.abs(correlation - np.eye(8)).max() < 5 / math.sqrt(50_000)


def test_the_extremes_of_a_word_give_finite_normals():
    from slimctl.models.counter_random import _box_muller

    ends = torch.tensor([0, 1, 2**32 - 1])
    values = torch.stack(tuple(_box_muller((ends, ends, ends, ends))))
    assert values.isfinite().all()
    assert values.abs().max() == pytest.approx(math.sqrt(2 * 33 * math.log(2)), rel=1e-6)


def test_uniforms_are_uniform():
    drawn = uniform(3, Stream.TIME, torch.arange(200_000)).double().numpy()
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3


def test_integers_and_labels_have_their_frequencies():
    index = torch.arange(60_000)
    counts = np.bincount(integers(3, 0, index, 7), minlength=7)
    assert stats.chisquare(counts).pvalue > 1e-3
    drawn = categorical(3, 0, index, (1, 0, 2, 3))
    seen = np.bincount(drawn, minlength=4)
    assert seen[1] == 0
    assert stats.chisquare(seen[[0, 2, 3]], np.array([1, 2, 3]) * 10_000).pvalue > 1e-3


def test_bad_arguments_are_named():
    index = torch.arange(2)
    with pytest.raises(ValueError, match="seed is -1"):
        normal(-1, 0, index, (2,))
    with pytest.raises(ValueError, match="stream is 65536"):
        normal(0, 2**16, index, (2,))
    with pytest.raises(ValueError, match="step is -3"):
        normal(0, 0, index, (2,), step=-3)
    with pytest.raises(ValueError, match="high is 0"):
        integers(0, 0, index, 0)
    with pytest.raises(ValueError, match="counts are"):
        categorical(0, 0, index, (0, 0))
    with pytest.raises(ValueError, match="count is 0"):
        shuffled_index(0, 0, index, 0)
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        shuffled_index(0, 0, index + 1, 2)


def test_empty_batches_and_samples():
    assert normal(0, 0, torch.arange(0), (3, 4)).shape == (0, 3, 4)
    assert normal(0, 0, torch.arange(3), (0,)).shape == (3, 0)


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_epoch_is_a_permutation(count, seed, epoch):
    order = shuffled_index(seed, epoch, torch.arange(count), count)
    assert torch.equal(order.sort().values, torch.arange(count))


def test_data_order_joins_epochs():
    position = torch.arange(2 * 97 - 30, 2 * 97 + 30)
    order = data_order(1, position, 97)
    assert torch.equal(order[:30], shuffled_index(1, 1, torch.arange(67, 97), 97))
    assert torch.equal(order[30:], shuffled_index(1, 2, torch.arange(30), 97))


@pytest.mark.parametrize("count", [3, 4])
def test_all_orders_of_three_or_four_are_equally_likely(count):
    epochs = 60_000
    order = data_order(11, torch.arange(epochs * count), count).view(epochs, count)
    _, seen = torch.unique(order, dim=0, return_counts=True)
    assert len(seen) == math.factorial(count)
    assert stats.chisquare(seen.numpy()).pvalue > 1e-3


def test_orders_of_many_elements_look_independent():
    count = 1797
    first = shuffled_index(4, 0, torch.arange(count), count)
    second = shuffled_index(4, 1, torch.arange(count), count)
    for difference in (first[1:] - first[:-1], second - first):
        sixteenths = np.bincount((difference % count * 16 // count).numpy(), minlength=16)
        assert stats.chisquare(sixteenths).pvalue > 1e-3


def test_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    normal(0, 0, torch.arange(4), (5,))
    data_order(0, torch.arange(4), 10)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_numbers():
    index = torch.arange(100)
    for here, there in (
        (
            integers(1, 0, index, 2**31 - 1, (99,)),
            integers(1, 0, index, 2**31 - 1, (99,), 0, "cuda"),
        ),
        (uniform(1, 0, index, (99,)), uniform(1, 0, index, (99,), 0, "cuda")),
        (data_order(1, index, 5000), data_order(1, index.cuda(), 5000)),
    ):
        assert torch.equal(here, there.cpu())
    on_gpu = normal(1, 0, index, (99,), device="cuda").cpu()
    torch.testing.assert_close(on_gpu, normal(1, 0, index, (99,)), rtol=1e-5, atol=1e-6)
