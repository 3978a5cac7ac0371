"""From a handle to something that computes: flows, generators and step policies."""

from functools import partial

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from slimctl.jobs.base.artifacts import Fleet, Flow, Generator, Partition, StepPolicy
from slimctl.jobs.base.errors import UserError, what_and_fix
from slimctl.jobs.base.guidance import Guidance
from slimctl.jobs.base.networks import network_of
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import load_dataset_tensors, load_weights
from slimctl.jobs.storage.texts import open_router, texts_of
from slimctl.models.compilation import CompilesLater
from slimctl.models.conditions import tell
from slimctl.models.engine import choose_engine, set_compiled
from slimctl.models.flows.analytic import AnalyticFlow
from slimctl.models.flows.denoising import make_flow
from slimctl.models.flows.flow import Flow as RunnableFlow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.pixels import to_float
from slimctl.models.routing import RoutedFlow
from slimctl.models.sharding import shard
from slimctl.models.solvers.spec import SolverSpec, has_fixed_steps
from slimctl.models.spec import SamplingPrecision
from slimctl.models.steps.flow_walk import observation_size
from slimctl.models.steps.q_network import GreedyPolicy
from slimctl.models.steps.spec import FlowProblem, Problem, ThreeBodyProblem

_PROBLEM: TypeAdapter[ThreeBodyProblem | FlowProblem] = TypeAdapter(Problem)


def open_network(
    store: Store, handle: Flow | Generator, device: torch.device, mesh: DeviceMesh | None = None
) -> nn.Module:
    """The network of a handle with its averaged weights, frozen, in evaluation mode.

    With a mesh it is split over its workers, all of which open it.

    Raises:
        UserError: the weights do not fit the network, or that is not installed here.
        DamagedArtifact: a file is not what its manifest says.
    """
    network = network_of(handle).build(handle.image)
    load_weights(network, store, handle)
    texts = texts_of(store, handle)
    if texts is not None:
        tell(network, texts)
    network.eval().requires_grad_(requires_grad=False)
    if mesh is not None:
        return shard(network, mesh)
    return choose_engine(device, "sampling").place(network, device)


def open_running(
    store: Store,
    handle: Flow | Generator,
    device: torch.device,
    precision: SamplingPrecision = "float32",
    mesh: DeviceMesh | None = None,
) -> nn.Module:
    """The same, computed in the way of a precision on this device; raises as `open_network`."""
    network = open_network(store, handle, device, mesh)
    engine = choose_engine(device, "sampling", precision, in_parts=mesh is not None)
    return engine.runner(network)


def later(
    flow: RunnableFlow, solver: SolverSpec | None, device: torch.device, batches: int
) -> CompilesLater | None:
    """What compiles a flow in the course of so many batches; None where it cannot pay."""
    if device.type != "cuda" or solver is None or not has_fixed_steps(solver):
        return None
    return CompilesLater(batches, partial(set_compiled, flow))


def open_flow(
    store: Store,
    handle: Flow,
    device: torch.device,
    precision: SamplingPrecision = "float32",
    mesh: DeviceMesh | None = None,
) -> RunnableFlow:
    """The flow of a handle, frozen, on a device, its network split over the workers of a mesh.

    `precision` is of a network's products and convolutions; a closed form has its own.

    Raises:
        UserError: the weights do not fit the network, or that is not installed here.
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
    network = open_running(store, handle, device, precision, mesh)
    return make_flow(network, handle.image, handle).to(device)


def open_guided(
    store: Store,
    handle: Flow,
    guidance: Guidance | None,
    device: torch.device,
    precision: SamplingPrecision = "float32",
    mesh: DeviceMesh | None = None,
) -> RunnableFlow:
    """The flow of a handle, driven by what a job asks for; the rest as of `open_flow`.

    Raises:
        UserError: it cannot be guided so; and as `open_flow`.
    """
    flow = open_flow(store, handle, device, precision, mesh)
    if guidance is None:
        return flow
    given = guidance.weaker
    weaker = None if given is None else open_flow(store, given, device, precision, mesh)
    spec, negative = guidance.spec, guidance.negative or None
    try:
        return flow.guided(spec.scale, negative, interval=spec.interval, weaker=weaker)
    except ValueError as error:
        raise UserError(handle.id, *what_and_fix(error)) from error


def open_fleet(
    store: Store, handle: Fleet, device: torch.device, precision: SamplingPrecision = "float32"
) -> RoutedFlow:
    """The students of a fleet behind their router, frozen, on a device.

    Raises:
        UserError: the weights of a student do not fit its network.
        DamagedArtifact: a file is not what its manifest says.
    """
    members: list[RunnableFlow] = []
    for each in handle.members:
        if isinstance(each, Flow):
            members.append(open_flow(store, each, device, precision))
        else:
            network = open_running(store, each, device, precision)
            members.append(NetworkFlow(network, each.image, each.t_start))
    if handle.prompts is None:
        return RoutedFlow(members, handle.subsets)
    return RoutedFlow(members, open_router(store, store.load(handle.partition, Partition)))


def open_policy(store: Store, handle: StepPolicy, number: int | None = None) -> GreedyPolicy:
    """The policy of a training seed, by its number; None = the best on the validation episodes.

    Raises:
        DamagedArtifact: the file is not what its manifest says.
        UserError: an earlier version trained it, whose policies saw less of a flow.
    """
    problem = problem_of(handle)
    if isinstance(problem, FlowProblem):
        _check_view(handle, observation_size(len(problem.actions)))
    prefix = f"{handle.chosen if number is None else number}."
    every = load_file(store.file(handle, handle.file))
    weights = {
        name.removeprefix(prefix): value for name, value in every.items() if name.startswith(prefix)
    }
    if isinstance(problem, ThreeBodyProblem):
        from slimctl.models.steps.three_body_environment import (  # noqa: PLC0415  (numba)
            three_body_guess,
        )

        return GreedyPolicy(weights, partial(three_body_guess, problem))
    return GreedyPolicy(weights)


def _check_view(handle: StepPolicy, shown: int) -> None:
    """Raises UserError where a policy was trained to see other numbers than it would be shown."""
    if handle.observation_size != shown:
        raise UserError(
            handle.id,
            f"sees {handle.observation_size} numbers of a sample, and this version shows {shown}: "
            "an earlier version of slimctl trained it",
            "train it again: 'slimctl show' tells the command that made it",
        )


def problem_of(handle: StepPolicy) -> ThreeBodyProblem | FlowProblem:
    """What a policy decides about."""
    return _PROBLEM.validate_python(handle.problem)


def flow_problem(handle: StepPolicy) -> FlowProblem:
    """The flow problem of a policy.

    Raises:
        UserError: it was trained on three bodies.
    """
    problem = problem_of(handle)
    if not isinstance(problem, FlowProblem):
        raise UserError(
            handle.id,
            "chooses the steps of three-body systems, not those of a flow",
            "train a policy with problem: {kind: flow}",
        )
    return problem
