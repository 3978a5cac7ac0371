"""Finds the spec and the fields that a path of the user's data leads to.

pydantic's errors name neither the fields that a key could have meant nor their descriptions, so
the specs are walked along the data: the alternative of a union is the one with the data's `kind`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from slimctl.orchestrator.problems import Path


@dataclass(frozen=True)
class Subject:
    """What a set of fields belongs to, in words.

    Args:
        model: class of the fields.
        data: the fields as the user wrote them.
        path: where they stand in the pipeline.
        intro: begins each sentence, such as `job 'student': `.
        owner: has the fields, such as `anneal_reflow`.
        unfilled: whether placeholders stand for values that cannot be told.
    """

    model: type[BaseModel]
    data: Mapping[str, Any]
    path: Path = ()
    intro: str = ""
    owner: str = "a pipeline"
    unfilled: bool = False


def value_at(data: Any, path: Path) -> Any:
    """The value that a path leads to."""
    for part in path:
        data = data[part]
    return data


def fields_at(subject: Subject, path: Path) -> Mapping[str, FieldInfo]:
    """Fields of the spec that stands at a path; {} if there is none."""
    models: list[type[BaseModel]] = [subject.model]
    here: Any = subject.data
    for part in path:
        here = here[part]
        if isinstance(part, int):
            continue
        infos = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [model for info in infos for model in models_in(info.annotation)]
        kind = here.get("kind") if isinstance(here, Mapping) else None
        models = [model for model in models if kind in _kinds(model)] or models
    return {name: info for model in models for name, info in model.model_fields.items()}


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """All specs that a field of this annotation can hold, subclasses included."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        below = [model for sub in annotation.__subclasses__() for model in models_in(sub)]
        return [annotation, *below]
    return [model for part in get_args(annotation) for model in models_in(part)]


def _kinds(model: type[BaseModel]) -> tuple[str, ...]:
    info = model.model_fields.get("kind")
    return get_args(info.annotation) if info else ()


def kinds_of(info: FieldInfo) -> tuple[str, ...]:
    """Values of `kind` that the specs of a field have."""
    return tuple(kind for model in models_in(info.annotation) for kind in _kinds(model))


def types_in(annotation: Any) -> set[Any]:
    """An annotation and everything inside it."""
    return {annotation}.union(*(types_in(part) for part in get_args(annotation)))
