"""From a handle of the store to a model described by itself, with its weights."""

from collections.abc import Mapping

from safetensors.torch import load_file
from torch import Tensor

from slimctl.jobs.base.artifacts import Fleet, Flow, Generator
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.evaluation.sampling import takes_solver
from slimctl.jobs.storage.store import Store
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.model_folder import Member, ModelDescription
from slimctl.models.networks.registry import parse_network
from slimctl.models.solvers.spec import EulerSpec

Model = Flow | Generator | Fleet


def find_model(store: Store, artifact: str) -> Model:
    """The handle of a model.

    Raises:
        UserError: it is something else, or a closed form, which has no weights.
    """
    handle = store.load_any(artifact)
    if not isinstance(handle, (Flow, Generator, Fleet)):
        raise UserError(
            artifact,
            f"is a {type(handle).__name__}, no model",
            "name a flow, a generator or a fleet",
        )
    for one in members_of(handle):
        if one.network is None:
            raise UserError(
                one.id,
                "is the closed form of a data set, which has no weights to export",
                "export a network that was trained on its pairs",
            )
    return handle


def members_of(model: Model) -> tuple[Flow | Generator, ...]:
    """The networks of a model: itself, or the students of a fleet."""
    return model.members if isinstance(model, Fleet) else (model,)


def describe(
    model: Model, name: str, nfe: int, class_names: tuple[str, ...] = ()
) -> ModelDescription:
    """What a folder with the model would say of it.

    Args:
        model: with weights.
        name: what to call it.
        nfe: Euler steps of a flow.
        class_names: names of the classes, where they are known.
    """
    fleet = isinstance(model, Fleet)
    ending = ".safetensors"
    return ModelDescription(
        name=name,
        image=model.image,
        members=tuple(
            Member(
                network=parse_network(one.network),
                file=f"weights-{at}{ending}" if fleet else f"weights{ending}",
                flow=_parameterisation(one) if isinstance(one, Flow) else None,
                t_start=one.t_start,
            )
            for at, one in enumerate(members_of(model))
        ),
        subsets=model.subsets if isinstance(model, Fleet) else (),
        solver=EulerSpec(steps=nfe) if takes_solver(model) else None,
        label_counts=model.label_counts,
        class_names=class_names if model.image.classes else (),
    )


def weights_of(store: Store, model: Model) -> list[Mapping[str, Tensor]]:
    """Averaged weights of each network of a model, by parameter name.

    Raises:
        DamagedArtifact: a file is not what its manifest says.
    """
    return [load_file(store.file(one, one.file)) for one in members_of(model)]


def _parameterisation(flow: Flow) -> Parameterisation:
    fields = Parameterisation.model_fields
    return Parameterisation.model_validate(
        {name: value for name, value in flow.model_dump().items() if name in fields}
    )
