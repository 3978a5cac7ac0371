"""Inputs of students."""

import pytest


@pytest.fixture
def make_input(make_dataset, make_analytic, make_pairs):
    """`make_input(classes)`: ten pairs of a closed form."""

    def make(classes=0, flip=True):
        data = make_dataset(count=9, classes=classes, flip=flip)
        return make_pairs(make_analytic(data, conditional=classes > 0), count=10)

    return make
