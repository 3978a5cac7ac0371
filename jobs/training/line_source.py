"""The lines of a step: both ends, labels, and the velocity at their points."""

from torch import Tensor

from slimctl.jobs.base.context import Handles
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.lines import LineTrainingSpec
from slimctl.jobs.training.objective import Share
from slimctl.jobs.training.sources import ImageSource, PairSource
from slimctl.models.flows.path import path_velocity


class LineSource:
    """The lines that a spec asks for, on a worker's device."""

    def __init__(self, spec: LineTrainingSpec, handles: Handles, share: Share) -> None:
        store, learned = handles.store, spec.learned(handles)
        labels = spec.labels(handles, learned.conditions)
        self._pairs, self._images, self._teacher = None, None, None
        if spec.pairs is not None:
            self._pairs = PairSource(store, handles[spec.pairs], share.device, labels)
        if spec.data is not None:
            conditional = learned.image.classes > 0
            data = handles[spec.data]
            self._images = ImageSource(store, data, share.device, labels, conditional=conditional)
        if spec.teacher is not None:
            teacher = handles[spec.teacher]
            self._teacher = open_flow(store, teacher, share.device, mesh=share.mesh)
        self._flip = learned.flip_valid if spec.flip is None else spec.flip
        self.draws = Draws(spec.seed or 0, share, learned.image)

    def of_step(self, draws: Draws, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Noise x0 and images x1, float32 (B, C, H, W), and labels int64 (B,) or None."""
        if self._pairs is not None:
            return self._pairs.of_step(draws, step, flip=self._flip)
        assert self._images is not None  # checked: data or pairs
        x1, label = self._images.of_step(draws, step, flip=self._flip)
        return draws.noise(step), x1, label

    def velocity(
        self, ends: tuple[Tensor, Tensor], xt: Tensor, t: Tensor, label: Tensor | None
    ) -> Tensor:
        """Velocity at points of the lines: the teacher's, else the lines' own; no gradient."""
        if self._teacher is None:
            return path_velocity(*ends)
        return self._teacher.velocity(xt, t, label).detach().to(xt.dtype)
