from slimctl.jobs.base.errors import NAMED, listed


def test_few_names_stand_alone():
    assert listed(["a", "b"], 2) == "a, b"


def test_many_names_are_cut_and_counted():
    names = (str(i) for i in range(10_000))
    assert listed(names, 10_000) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 9,990 more"
    assert next(names) == str(NAMED)


def test_names_cannot_write_to_the_terminal():
    assert listed(["new\nline", "\x1b[31mred", "\udcff"], 3) == "new\\x0aline, \\x1b[31mred, \\xff"
