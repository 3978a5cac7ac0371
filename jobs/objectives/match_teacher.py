"""Teacher score matching: a smaller network learns the teacher's velocity on real images."""

from dataclasses import dataclass

from torch import Tensor, nn

from slimctl.jobs.base.artifacts import Dataset, Flow
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.storage.part_images import load_part
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training.draws import Draws, mirror
from slimctl.jobs.training.objective import Objective, Share
from slimctl.models.flows.losses import teacher_matching_loss
from slimctl.models.flows.spec import TimeDensity
from slimctl.models.pixels import to_float


@dataclass
class TeacherMatching(Objective):
    """Mean squared difference of the student's and the teacher's velocity on noised real images.

    Args:
        store: where teacher and data are.
        teacher: the flow to imitate.
        data: real images, labelled if the teacher is conditional.
        labels: images of other labels are left out; None = all images.
        seed: of the job.
        time: density of the flow times.
        flip: whether to mirror every other image.

    Source:
        Song et al., Multi-student distillation, arXiv 2410.23274: its stage 0.
    """

    store: Store
    teacher: Flow
    data: Dataset
    labels: tuple[int, ...] | None
    seed: int
    time: TimeDensity
    flip: bool

    def prepare(self, share: Share) -> None:
        conditional = self.teacher.image.classes > 0
        images, label = load_part(self.store, self.data, self.labels, conditional=conditional)
        self._images = images.to(share.device)
        self._label = None if label is None else label.to(share.device)
        self._teacher = open_flow(self.store, self.teacher, share.device)
        self._draws = Draws(self.seed, share, self.teacher.image)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        index = self._draws.samples(step, len(self._images))
        x1 = to_float(self._images[index])
        if self.flip:
            x1 = mirror(x1, self._draws.flips(step))
        label = None if self._label is None else self._label[index]
        x0, t = self._draws.noise(step), self._draws.times(step, self.time)
        velocity = self._teacher.velocity
        return teacher_matching_loss(network, velocity, x0, x1, t, label).mean()
