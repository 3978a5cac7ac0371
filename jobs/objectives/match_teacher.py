"""Teacher score matching: a smaller network learns the teacher's velocity on real images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from slimctl.jobs.base.context import Handles
from slimctl.jobs.storage.flows import open_guided
from slimctl.jobs.training.captions import Captions
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share
from slimctl.jobs.training.sources import ImageSource
from slimctl.models.flows.student import StudentFlow
from slimctl.models.losses import teacher_matching_loss

if TYPE_CHECKING:
    from slimctl.jobs.kinds.match_teacher import MatchTeacher


@dataclass
class TeacherMatching(Objective):
    """Mean squared difference of the student's and the teacher's velocity on noised real images.

    Source:
        Song et al., Multi-student distillation, arXiv 2410.23274: its stage 0.
    """

    spec: "MatchTeacher"
    handles: Handles

    def prepare(self, share: Share) -> None:
        store, spec = self.handles.store, self.spec
        teacher = spec.prompted(self.handles, self.handles[spec.teacher])
        labels = spec.labels(self.handles, teacher.conditions)
        self._captions = None
        if teacher.prompts is not None:
            self._captions = Captions(store, teacher.prompts, labels)
            labels = self._captions.classes
        data, conditional = self.handles[spec.data], teacher.conditions > 0
        self._data = ImageSource(store, data, share.device, labels, conditional=conditional)
        guidance = self.spec.guided(self.handles)
        self._teacher = open_guided(store, teacher, guidance, share.device, mesh=share.mesh)
        self._flip = teacher.flip_valid if self.spec.flip is None else self.spec.flip
        self._draws = Draws(self.spec.seed or 0, share, teacher.image)
        how = self.spec.predicts_here(self.handles)
        self._student = StudentFlow(how, teacher.image, share.device)

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        draws = self._draws.of(part)
        x1, label = self._data.of_step(draws, step, flip=self._flip)
        if self._captions is not None and label is not None:
            label = self._captions.of(label, draws, step)
        x0, t = draws.noise(step), draws.times(step, self.spec.time)
        student, velocity = self._student.of(network), self._teacher.velocity
        each = teacher_matching_loss(student, velocity, x0, x1, t, label)
        return draws.weighted(self._student.in_units(each, t).mean())
