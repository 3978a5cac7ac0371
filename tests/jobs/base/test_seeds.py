import hashlib

from slimctl.jobs.base.keys import derive_seed


def test_a_seed_is_a_function_of_seed_and_purpose():
    expected = int(hashlib.sha256(b"7/dropout/3/0").hexdigest()[:16], 16) >> 1
    assert derive_seed(7, "dropout", 3, 0) == expected


def test_seeds_fit_what_they_seed_and_differ():
    seeds = {
        derive_seed(seed, purpose, step, rank)
        for seed in (0, 1)
        for purpose in ("dropout", "weights")
        for step in range(50)
        for rank in range(2)
    }
    assert len(seeds) == 400
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    assert max(seeds).bit_length() > 55
