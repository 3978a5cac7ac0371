from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.orchestrator.explain import Subject, fields_at, kinds_of, models_in, types_in, value_at


def names_at(data: dict[str, object], *path: str | int) -> set[str]:
    return set(fields_at(Subject(AnnealReflow, data), path))


def test_fields_of_the_alternative_that_the_kind_names():
    data = {"annealing": {"kind": "constant"}, "network": {"kind": "song_unet"}}
    assert names_at(data) == set(AnnealReflow.model_fields)
    assert names_at(data, "annealing") == {"kind", "value"}
    assert names_at(data, "network") == set(SongUNetSpec.model_fields)


def test_without_a_known_kind_every_alternative_counts():
    assert names_at({"annealing": {}}, "annealing") == {"kind", "value", "length"}
    assert "channels" in names_at({"network": {"preset": "x"}}, "network")


def test_values_have_no_fields():
    assert names_at({"steps": 5}, "steps") == set()
    assert names_at({"nothing": {"a": 1}}, "nothing", "a") == set()
    assert names_at({"adam_betas": [0.1]}, "adam_betas", 0) == set()


def test_kinds_and_models():
    info = AnnealReflow.model_fields["time"]
    assert kinds_of(info) == ("uniform", "u_shaped", "karras")
    assert SongUNetSpec in models_in(AnnealReflow.model_fields["network"].annotation)
    assert models_in(int | None) == []


def test_types_and_values():
    assert types_in(dict[str, int] | None) >= {dict[str, int], str, int, type(None)}
    assert value_at({"a": [1, {"b": 2}]}, ("a", 1, "b")) == 2
