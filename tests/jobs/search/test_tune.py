"""What stands around Ray Tune; the search itself runs in the tests on Ray."""

from slimctl.jobs.search.spec import Dimension
from slimctl.jobs.search.tune import _decoded, _encoded

SPACE = {
    "net": Dimension(choice=({"c": 8}, {"c": 16})),
    "rate": Dimension(loguniform=(1e-4, 1e-2)),
    "depth": Dimension(randint=(1, 3)),
}


def test_suggestions_and_values_are_two_ways_to_say_the_same():
    values = {"net": {"c": 16}, "rate": 0.003, "depth": 2}
    assert _encoded(SPACE, values) == {"net": 1, "rate": 0.003, "depth": 2}
    assert _decoded(SPACE, _encoded(SPACE, values)) == values
