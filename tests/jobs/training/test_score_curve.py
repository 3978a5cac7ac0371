from slimctl.jobs.training.score_curve import FILE, note_score, noted_scores


def test_scores_are_kept_by_step(store):
    folder = store.work("distill-1")
    assert noted_scores(folder) == {}
    for step, value in ((0, 3.0), (100, 1.5), (20, 2.0), (100, 1.25)):  # 100 is done again
        note_score(folder, step, value)
    assert list(noted_scores(folder).items()) == [(0, 3.0), (20, 2.0), (100, 1.25)]
    assert folder.names() == [FILE]
