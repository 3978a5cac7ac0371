import pytest
import torch

from slimctl.jobs.base.artifacts import Generator
from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.storage.flows import open_flow, open_network
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models.flows.analytic import AnalyticFlow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.pixels import to_float

CPU = torch.device("cpu")


def test_a_trained_flow_is_frozen_and_in_evaluation_mode(store, make_model):
    handle = make_model(dropout=0.5).model_copy(update={"t_start": 0.25})
    flow = open_flow(store, handle, CPU)
    assert isinstance(flow, NetworkFlow)
    assert (flow.image, flow.t_start) == (handle.image, 0.25)
    assert not any(weight.requires_grad for weight in flow.parameters())
    assert not any(module.training for module in flow.network.modules())
    assert sum(weight.numel() for weight in flow.parameters()) == handle.parameters
    x, t = torch.randn(2, 1, 4, 4), torch.rand(2)
    assert torch.equal(flow.velocity(x, t), flow.velocity(x, t))


def test_a_generator_opens_as_its_network(store, make_model):
    handle = make_model(Generator, label_counts=(2, 1))
    network = open_network(store, handle, CPU)
    out = network(torch.randn(2, 1, 4, 4), torch.zeros(2), torch.tensor([0, 1]))
    assert out.shape == (2, 1, 4, 4)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_closed_form_is_that_of_its_images(store, make_dataset, make_analytic, conditional):
    data = make_dataset(count=6, classes=2)
    handle = make_analytic(data, conditional).model_copy(update={"t_start": 0.125})
    flow = open_flow(store, handle, CPU)
    assert isinstance(flow, AnalyticFlow)
    assert (flow.image, flow.t_start) == (handle.image, 0.125)
    images, labels = load_dataset_tensors(store, data)
    same = AnalyticFlow(to_float(images), labels if conditional else None, 2 if conditional else 0)
    x, t = torch.randn(3, 1, 4, 4), torch.full((3,), 0.5)
    label = torch.tensor([0, 1, 1]) if conditional else None
    assert torch.equal(flow.velocity(x, t, label), same.velocity(x, t, label))


def test_weights_of_another_network_are_refused(store, make_model):
    handle = make_model()
    other = handle.model_copy(update={"network": handle.network | {"channels": 8}})
    with pytest.raises(UserError, match="its weights do not fit the network"):
        open_flow(store, other, CPU)


def test_damaged_weights_are_refused(store, make_model):
    handle = make_model()
    path = store.file(handle, handle.file)
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact):
        open_flow(Store(store.uri), handle, CPU)
