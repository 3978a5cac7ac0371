import pytest
import torch
from torch.nn import functional

from slimctl.jobs.base.artifacts import Partition
from slimctl.jobs.base.context import Handles
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.kinds.match_teacher import MatchTeacher
from slimctl.jobs.objectives.match_teacher import TeacherMatching
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.jobs.training.draws import Draws
from slimctl.models.flows.path import interpolate
from slimctl.models.flows.spec import UniformTime
from slimctl.models.pixels import to_float

CPU = torch.device("cpu")
SEED = 5


@pytest.fixture
def data(make_dataset):
    return make_dataset(count=20, classes=4)


@pytest.fixture
def teacher(make_analytic, data):
    return make_analytic(data, conditional=True)


@pytest.fixture
def make(store, teacher, data, share):
    def objective(labels=None, teacher=teacher, data=data):
        fields = {
            "teacher": "teacher", "data": "data", "seed": SEED, "flip": False, "steps": 1,
            "network": {"kind": "mlp", "width": 8},
        }  # fmt: skip
        inputs = {"teacher": teacher, "data": data}
        if labels is not None:
            rest = tuple(label for label in range(data.image.classes) if label not in labels)
            subsets = (labels, rest) if rest else (labels,)
            inputs["split"] = Partition(id="split", subsets=subsets, method="by hand")
            fields |= {"partition": "split", "part": 0}
        made = TeacherMatching(MatchTeacher(**fields), Handles(store, "", inputs))
        made.prepare(share())
        return made

    return objective


def test_the_teacher_itself_has_no_loss(make, store, teacher):
    flow = open_flow(store, teacher, CPU)
    assert float(make().loss(flow.velocity, 3)) == 0.0


def test_the_loss_is_that_of_the_equation(make, store, teacher, data, share):
    images, labels = load_dataset_tensors(store, data)
    draws = Draws(SEED, share(), data.image)
    index = draws.samples(2, 20)
    x1, x0, t = to_float(images[index]), draws.noise(2), draws.times(2, UniformTime())
    xt = interpolate(x0, x1, t)
    target = open_flow(store, teacher, CPU).velocity(xt, t, labels[index])
    expected = functional.mse_loss(0.5 * xt, target)
    torch.testing.assert_close(make().loss(lambda xt, t, label: 0.5 * xt, 2), expected)


@pytest.mark.parametrize("part", [(1,), (0, 3)])
def test_only_images_and_labels_of_the_part_are_seen(make, part):
    seen = set()

    def network(xt, t, label):
        seen.update(label.tolist())
        return xt

    objective = make(labels=part)
    for step in range(6):
        objective.loss(network, step)
    assert seen == set(part)


def test_a_teacher_without_labels_gets_none(make, make_analytic, data):
    said = []
    plain = make_analytic(data)
    make(teacher=plain).loss(lambda xt, t, label: said.append(label) or xt, 0)
    assert said == [None]


def test_a_part_without_images_is_an_error(make, make_dataset):
    with pytest.raises(UserError, match="has no image of the labels 2, 3"):
        make(labels=(2, 3), data=make_dataset(count=2, classes=4))


def test_micro_batches_add_up(make, make_student, assert_parts_add_up):
    objective, student = make(), make_student(4)
    assert_parts_add_up(lambda part: objective.loss(student, 3, part), [*student.parameters()])
