"""Which network families exist, and reading any of them from a pipeline file.

A field of type `AnyNetworkSpec` takes a mapping with `kind`, or `preset` and the fields to
change in it. It validates with the family's own class, so that an error keeps the path of the
field it is about. Other packages add families through the entry-point group `slimctl.networks`.
"""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import GetJsonSchemaHandler, PlainValidator, SerializeAsAny, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.denoiser.spec import DenoiserSpec
from slimctl.models.networks.diffusers_model.spec import DiffusersModelSpec
from slimctl.models.networks.diffusers_unet.spec import DiffusersUNetSpec
from slimctl.models.networks.mlp.spec import MLPSpec
from slimctl.models.networks.presets import PRESETS
from slimctl.models.networks.slim import SlimSpec
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.networks.two_times.spec import TwoTimesSpec
from slimctl.models.spec import EntryPoint, installed, origin

Item = TypeVar("Item")

ENTRY_POINTS = "slimctl.networks"
"""Group in which a package names its families: `kind = module:SpecClass`."""


@cache
def network_families() -> Mapping[str, type[NetworkSpec]]:
    """Kind -> spec class, the built-in families first.

    Raises:
        ValueError: an installed package adds what is no family, or a kind that is taken.
    """
    families: dict[str, type[NetworkSpec]] = {
        "song_unet": SongUNetSpec,
        "adm": ADMSpec,
        "mlp": MLPSpec,
        "diffusers_unet": DiffusersUNetSpec,
        "diffusers_model": DiffusersModelSpec,
        "two_times": TwoTimesSpec,
        "denoiser": DenoiserSpec,
        "slim": SlimSpec,
    }
    for entry in installed(ENTRY_POINTS).values():
        if entry.name in families:
            raise ValueError(f"{origin(entry)}: there is a network family of that name already")
        families[entry.name] = _load(entry)
    return families


def parse_network(value: object) -> NetworkSpec:
    """The spec that a mapping of a pipeline file asks for; a spec is returned as it is.

    Raises:
        ValueError: it names no known family or preset, or the family refuses it. It is a
            pydantic `ValidationError` whose locations are relative to `value`.
    """
    if isinstance(value, NetworkSpec):
        return value
    if not isinstance(value, Mapping):
        raise _error(value, None, "a network is a mapping with `kind` or `preset`")
    if "preset" in value:
        return _from_preset(value)
    if "kind" not in value:
        raise _error(value, None, f"a network needs `kind`: {_listed(network_families())}")
    family = _look_up(value, "kind", network_families())
    return family.model_validate(value)


def _from_preset(value: Mapping[str, Any]) -> NetworkSpec:
    preset = _look_up(value, "preset", PRESETS).network
    changes = {key: item for key, item in value.items() if key != "preset"}
    return type(preset).model_validate({**preset.model_dump(), **changes})


def _look_up(value: Mapping[str, Any], key: str, known: Mapping[str, Item]) -> Item:
    name = value[key]
    if isinstance(name, str) and name in known:
        return known[name]
    nearest = difflib.get_close_matches(str(name), known, n=1)
    fix = f"\n  fix: use {nearest[0]!r}" if nearest else ""
    raise _error(name, key, f"no network {key} {name!r}; there are {_listed(known)}{fix}")


def _error(value: object, key: str | None, message: str) -> ValidationError:
    problem = PydanticCustomError("network", "{message}", {"message": message})
    location = () if key is None else (key,)
    details = InitErrorDetails(type=problem, loc=location, input=value)
    return ValidationError.from_exception_data("network", [details])


def _load(entry: EntryPoint) -> type[NetworkSpec]:
    family: type[NetworkSpec] = entry.load()
    is_family = isinstance(family, type) and issubclass(family, NetworkSpec)
    if not is_family:
        raise ValueError(f"{origin(entry)} is no NetworkSpec class\n  fix: name the spec's class")
    if family.model_fields["kind"].default != entry.name:
        raise ValueError(
            f"{origin(entry)}: the class says kind = {family.model_fields['kind'].default!r}"
            "\n  fix: give the entry point the name of the class's kind"
        )
    return family


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _requiring_kind(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {**schema, "required": ["kind", *schema.get("required", [])]}


class _FamilySchemas:
    """Gives the JSON schema of whichever families are installed when it is asked for."""

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        families = [
            _requiring_kind(handler(family.__pydantic_core_schema__))
            for family in network_families().values()
        ]
        preset = {"type": "object", "properties": {"preset": {"enum": list(PRESETS)}}}
        slim = handler(SlimSpec.__pydantic_core_schema__)
        properties = {"slim_of": {"type": "string"}, **slim["properties"]}
        copy = {**slim, "properties": properties, "required": ["slim_of"]}
        return {"anyOf": [*families, {**preset, "required": ["preset"]}, copy]}


AnyNetworkSpec = Annotated[
    SerializeAsAny[NetworkSpec], PlainValidator(parse_network), _FamilySchemas()
]
"""Field type of a spec that holds a network of any family."""
