"""From a handle to something that computes: flows and generators of the store."""

import torch
from torch import nn

from slimctl.jobs.base.artifacts import Fleet, Flow, Generator
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.jobs.storage.weights import load_weights
from slimctl.models.engine import choose_engine
from slimctl.models.flows.analytic import AnalyticFlow
from slimctl.models.flows.denoising import make_flow
from slimctl.models.flows.flow import Flow as RunnableFlow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.networks.registry import parse_network
from slimctl.models.pixels import to_float
from slimctl.models.routing import RoutedFlow
from slimctl.models.spec import Precision


def open_network(store: Store, handle: Flow | Generator, device: torch.device) -> nn.Module:
    """The network of a handle with its averaged weights, frozen, in evaluation mode.

    Raises:
        UserError: the weights do not fit the network.
        DamagedArtifact: a file is not what its manifest says.
    """
    network = parse_network(handle.network).build(handle.image)
    load_weights(network, store, handle)
    network.eval().requires_grad_(requires_grad=False)
    return choose_engine(device, "sampling").place(network, device)


def open_flow(
    store: Store, handle: Flow, device: torch.device, precision: Precision = "float32"
) -> RunnableFlow:
    """The flow of a handle, frozen, on a device.

    Args:
        store: where its weights or its data are.
        handle: the flow.
        device: where to compute.
        precision: of a network's products and convolutions; a closed form has its own.

    Raises:
        UserError: the weights do not fit the network.
        DamagedArtifact: a file is not what its manifest says.
    """
    if handle.dataset is not None:
        images, labels = load_dataset_tensors(store, handle.dataset)
        flow: RunnableFlow = AnalyticFlow(
            to_float(images),
            labels if handle.image.classes else None,
            handle.image.classes,
            bandwidth=handle.bandwidth,
            t_start=handle.t_start,
        )
        return flow.to(device)
    network = open_network(store, handle, device)
    if precision != "float32":
        network = choose_engine(device, "sampling", precision).runner(network)
    return make_flow(network, handle.image, handle).to(device)


def open_fleet(store: Store, handle: Fleet, device: torch.device) -> RoutedFlow:
    """The students of a fleet behind their router, frozen, on a device.

    Raises:
        UserError: the weights of a student do not fit its network.
        DamagedArtifact: a file is not what its manifest says.
    """
    members: list[RunnableFlow] = []
    for each in handle.members:
        if isinstance(each, Flow):
            members.append(open_flow(store, each, device))
        else:
            network = open_network(store, each, device)
            members.append(NetworkFlow(network, each.image, each.t_start))
    return RoutedFlow(members, handle.subsets)
