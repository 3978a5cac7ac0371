"""What a user is told of a distribution matching: a critic that is too small, and the scores."""

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.training.best import Scores


def warn_of_small_critic(context: JobContext, teacher: Flow, fake: Flow) -> None:
    """Warns of a fake network with fewer parameters than the teacher's."""
    if fake.parameters >= teacher.parameters:
        return
    context.warn(
        f"the fake network has {fake.parameters:,} parameters, the teacher {teacher.parameters:,}: "
        "a critic smaller than the teacher cannot follow the student's distribution as closely as "
        "the teacher knows its own, the difference of the two then points away from the data, and "
        "the student collapses; leave fake out, or name a flow of the teacher's size"
    )


def tell_scores(context: JobContext, scores: Scores | None, taken_on: str) -> None:
    """Notes the scores with the artifact, and warns if nothing was better than the start.

    Args:
        context: of the job.
        scores: of its training.
        taken_on: `features` or `pixels`.
    """
    assert scores is not None  # distribution matching always scores
    context.engine |= {
        "score": taken_on,
        "start_score": scores.start,
        "best_score": scores.best,
        "best_step": scores.best_step,
        "last_score": scores.last,
    }
    context.log(
        f"score on {taken_on}: start {scores.start:.4g}, best {scores.best:.4g} after step "
        f"{scores.best_step}, last {scores.last:.4g}"
    )
    if scores.best_step == 0:
        context.warn(
            f"no weights scored better than the start ({scores.start:.4g}), which is the result: "
            "train longer, lower learning_rate, or raise fake_updates"
        )
