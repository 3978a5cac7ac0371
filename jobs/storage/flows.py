"""From a handle to something that computes: flows and generators of the store."""

import torch
from torch import nn

from jobs.base.artifacts import Fleet, Flow, Generator
from jobs.storage.store import Store
from jobs.storage.tensors import load_dataset_tensors, to_float
from jobs.storage.weights import load_weights
from models.flows.analytic import AnalyticFlow
from models.flows.flow import Flow as RunnableFlow
from models.flows.flow import NetworkFlow
from models.flows.make import make_flow
from models.networks.registry import parse_network
from models.routing import RoutedFlow


def open_network(store: Store, handle: Flow | Generator, device: torch.device) -> nn.Module:
    """The network of a handle with its averaged weights, frozen, in evaluation mode.

    Raises:
        UserError: the weights do not fit the network.
        DamagedArtifact: a file is not what its manifest says.
    """
    network = parse_network(handle.network).build(handle.image)
    load_weights(network, store, handle)
    return network.to(device).eval().requires_grad_(requires_grad=False)


def open_flow(store: Store, handle: Flow, device: torch.device) -> RunnableFlow:
    """The flow of a handle, frozen, on a device.

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
    return make_flow(open_network(store, handle, device), handle.image, handle).to(device)


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
