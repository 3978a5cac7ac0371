"""The scores of a training so far, by step: in its work folder, where a search can watch them."""

import json
from collections.abc import Mapping

from slimctl.jobs.storage.blobs import Blobs

FILE = "scores.json"


def note_score(folder: Blobs, step: int, value: float) -> None:
    """Adds a score; one of a step that is done again after a crash takes the place of the old."""
    scores = dict(noted_scores(folder)) | {step: value}
    folder.write(FILE, json.dumps({str(at): scores[at] for at in sorted(scores)}).encode())


def noted_scores(folder: Blobs) -> Mapping[int, float]:
    """Optimizer step -> score, in rising order; empty where nothing was scored."""
    try:
        text = folder.read(FILE)
    except FileNotFoundError:
        return {}
    return {int(step): float(value) for step, value in json.loads(text).items()}
