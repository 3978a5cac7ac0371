import pytest
import torch

from slimctl.jobs.base.facts import Facts
from slimctl.jobs.kinds.analytic_flow import AnalyticFlow
from slimctl.jobs.storage.flows import open_flow
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.spec import ImageShape

LABELLED = ImageShape(channels=1, size=4, classes=3)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_flow_of_a_data_set(run_job, store, make_dataset, conditional):
    data = make_dataset(count=9, classes=3, flip=False)
    spec = AnalyticFlow(data="d", conditional=conditional, bandwidth=0.25)
    flow = run_job(spec, data=data)
    assert flow.source == "data"
    assert flow.dataset == data
    assert flow.image.classes == (3 if conditional else 0)
    assert flow.label_counts == ((3, 3, 3) if conditional else ())
    assert (flow.flip_valid, flow.bandwidth, flow.parameters) == (False, 0.25, 0)
    opened = open_flow(store, flow, torch.device("cpu"))
    assert (opened.image, opened.bandwidth) == (flow.image, 0.25)
    known = spec.expect({"data": Facts(data.image, data.count, data.flip_valid)})
    assert (known.image, known.flip_valid) == (flow.image, flow.flip_valid)


def test_a_conditional_flow_needs_labels(refused):
    spec = AnalyticFlow(data="faces", conditional=True)
    error = refused(spec, data=Facts(ImageShape(channels=1, size=4)))
    assert error.field == "conditional"
    assert spec.expect({"data": Facts()}) == Facts(flow=Parameterisation(), closed_form=True)
    assert spec.expect({"data": Facts(LABELLED)}).image == LABELLED


def test_labels_are_missed_when_it_runs_too(attempt, make_dataset):
    outcome = attempt(AnalyticFlow(data="d", conditional=True), data=make_dataset())
    assert outcome.failure == "UserError"
    assert outcome.where == "job 'it', conditional"
    assert "'d' has no labels" in outcome.what
    assert outcome.trace == ""
