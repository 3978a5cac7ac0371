"""Trains a student flow on pairs, from random weights, with annealed noise (SlimFlow, stage 1)."""

from typing import TYPE_CHECKING

from slimctl.jobs.base.artifacts import Flow, PairSet
from slimctl.jobs.base.cluster import Work
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, check_each
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.training.memory import Load, pair_bytes
from slimctl.jobs.training.spec import ScoredTrainingSpec, training_work
from slimctl.models.flows.spec import AnnealingSchedule, LinearAnnealing, TimeDensity, UniformTime
from slimctl.models.networks.registry import AnyNetworkSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


class AnnealReflow(ScoredTrainingSpec):
    """A small flow whose paths are straight, learned from another flow's pairs.

    The noise of a pair is mixed with a fresh share beta(step) that falls to 0, so that training
    goes from plain flow matching on the teacher's samples to reflow on its pairs.

    Source:
        SlimFlow, arXiv 2407.12718, eq. 9, with time turned round (here t = 0 is noise).
    """

    pairs: Ref[PairSet]
    """Noise-image pairs of the teacher."""
    part_pairs: bool = True
    """Whether a student of a part learns from the pairs of its labels only: they are its data."""
    network: AnyNetworkSpec
    """Architecture of the student."""
    annealing: AnnealingSchedule | None = None
    """Share of fresh noise by step; `{kind: constant, value: 0}` is plain reflow; null = linear
    over the first 3/8 of the steps, the paper's share."""
    time: TimeDensity = UniformTime()
    """Density of the flow times trained on."""
    flip: bool | None = None
    """Whether to mirror noise and image of every other pair together; null = where flips are
    valid."""

    def run(self, context: JobContext) -> Flow:
        from slimctl.jobs.objectives.anneal_reflow import AnnealedReflow
        from slimctl.jobs.training.ray_train import train_model

        handles = context.handles
        student = self.flow_of(handles, context.input(self.pairs))
        objective, first = AnnealedReflow(self, handles), self.first_weights(handles)
        return train_model(context, self, objective, student, first)[0]

    def schedule(self) -> AnnealingSchedule:
        """The schedule asked for, or the default for this number of steps."""
        return self.annealing or LinearAnnealing(length=max(1, 3 * self.steps // 8))

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        known = inputs["pairs"]
        made = Facts(
            image=known.image,
            flip_valid=known.flip_valid,
            latents=known.latents,
            flow=self.predicts(inputs),
            network=self.plain(inputs),
            part=self.part,
        )
        source = ("pairs", self.pairs.job)
        return check_each(made, lambda: self.check_source(inputs, source, made.network, self.flip))

    def load(self, inputs: "Mapping[str, Facts]") -> Load | None:
        image, count = inputs["pairs"].image, inputs["pairs"].count
        network = self.plain(inputs)
        if image is None or network is None:
            return None
        copies = int(self.data is not None)
        data = pair_bytes(image, count)
        return Load(network, image, self.batch_size, data=data, copies=copies)

    def work(self, inputs: "Mapping[str, Facts]") -> Work | None:
        samples = self.steps * self.batch_size
        return training_work(self.plain(inputs), inputs["pairs"].image, samples)
