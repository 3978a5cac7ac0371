from slimctl.orchestrator.cli.tables import Row, collapsed, counted

FEW = [f"g.seed={seed}.{job}" for seed in range(4) for job in ("a", "b")]
MANY = [f"h.seed={seed}.{job}" for seed in range(5) for job in ("a", "b")]


def test_large_groups_share_rows():
    rows = collapsed(["data", *MANY, "last.v2"])
    assert [row.name for row in rows] == ["data", "h.a x 5", "h.b x 5", "last.v2"]
    assert [row.together for row in rows] == [False, True, True, False]
    assert rows[2] == Row("h.b x 5", tuple(f"h.seed={seed}.b" for seed in range(5)))


def test_small_ones_do_not():
    assert sorted(row.name for row in collapsed(FEW)) == sorted(FEW)
    assert len(collapsed(MANY, most=10)) == 10


def test_words_are_counted():
    assert counted(["run", "run"]) == "run"
    assert counted(["run", "reuse", "run"]) == "2 run, 1 reuse"
