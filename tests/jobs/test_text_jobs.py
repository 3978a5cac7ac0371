"""Texts through the jobs: a teacher of prompts, its pairs, and students that learn from them."""

import json

import numpy as np
import pytest
import torch
from builders import TEXT_NETWORK, embed_prompts, put

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.guidance import Guidance
from slimctl.jobs.evaluation.sampling import open_sampler
from slimctl.jobs.export.samples import Asked, write_samples
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.assemble_fleet import AssembleFleet
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.kinds.match_distribution import MatchDistribution
from slimctl.jobs.kinds.match_teacher import MatchTeacher
from slimctl.jobs.kinds.partition import SplitConditions
from slimctl.jobs.kinds.train_features import TrainFeatures
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.pairs.shards import pair_labels, pair_noise, read_pairs
from slimctl.jobs.storage.flows import open_fleet, open_flow, open_guided
from slimctl.jobs.storage.texts import PromptTexts, marginal_of, read_parts
from slimctl.jobs.training.sources import PairSource
from slimctl.models.conditions import NO_TEXT
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.flows.spec import GuidanceSpec
from slimctl.models.networks.registry import parse_network
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import EulerSpec
from slimctl.models.spec import ImageShape

pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
pytest.importorskip("transformers", reason="the extra `text` is not installed")

CPU = torch.device("cpu")
TRAINING = {"steps": 2, "batch_size": 4, "shared": True, "learning_rate": 1e-3}
TEXTS = [("a zero", 0), ("a one", 1), ("the digit zero", 0), ("the digit one", 1), ("one", 1)]


@pytest.fixture
def prompts(store, tmp_path):
    return embed_prompts(store, tmp_path, TEXTS)


@pytest.fixture
def data(make_dataset):
    return make_dataset(count=12, classes=2)


@pytest.fixture
def teacher(run_job, prompts, data):
    spec = TrainFlow(
        data="data", prompts="prompts", network=TEXT_NETWORK, label_dropout=0.3, **TRAINING
    )
    return run_job(spec, data=data, prompts=prompts)


@pytest.fixture
def pairs(run_job, teacher):
    solver = {"kind": "euler", "steps": 2}
    spec = GeneratePairs(
        flow="teacher", count=8, shard_size=4, solver=solver, guidance=2.0, negative="nine", seed=5
    )
    return run_job(spec, flow=teacher)


def test_each_prompt_comes_once_before_any_comes_again(store, pairs, prompts, teacher):
    number = pair_labels(5, torch.arange(10), pairs)
    assert sorted(number[:5].tolist()) == sorted(number[5:].tolist()) == [0, 1, 2, 3, 4]
    assert pairs.prompts.id == prompts.id
    assert pairs.nfe == 4.0
    assert PairSource(store, pairs, CPU).batch(torch.arange(8))[2].tolist() == number[:8].tolist()
    longest = max(len(value) for value in pairs.model_dump().values() if isinstance(value, tuple))
    assert longest <= 2


def test_pairs_are_the_guided_flow_of_their_prompts(store, pairs, teacher, prompts):
    index = torch.arange(8)
    flow = open_flow(store, teacher, CPU)
    text = PromptTexts(store, prompts)
    assert teacher.null_class == NO_TEXT
    rows = text.rows(pair_labels(5, index, pairs))
    driven = flow.guided(2.0, "nine")
    x1 = solve(EulerSpec(steps=2), driven, pair_noise(5, index, pairs.image), rows).x1
    assert torch.allclose(x1, read_pairs(store, pairs).float(), atol=2e-3)
    plain = solve(EulerSpec(steps=2), flow, pair_noise(5, index, pairs.image), rows).x1
    assert (x1 - plain).abs().max() > 0.01
    guidance = Guidance(GuidanceSpec(scale=2.0))
    less = open_guided(store, teacher, guidance, CPU)
    t, number = torch.full((8,), 0.5), pair_labels(5, index, pairs)
    own = flow.velocity(x1, t, number)
    null = flow.velocity(x1, t, torch.full_like(number, NO_TEXT))
    assert torch.allclose(less.velocity(x1, t, number), null + 2 * (own - null), atol=1e-5)


def test_students_learn_from_pairs_of_prompts(store, run_job, pairs, data, teacher, prompts):
    student = run_job(AnnealReflow(pairs="pairs", network=TEXT_NETWORK, **TRAINING), pairs=pairs)
    assert student.prompts.id == prompts.id
    spec = Distill(
        pairs="pairs", start="student", guide="student", data="data", score_every=1,
        score_samples=4, **TRAINING,
    )  # fmt: skip
    one_step = run_job(spec, pairs=pairs, start=student, guide=student, data=data)
    assert one_step.prompts.id == prompts.id
    sampler = open_sampler(store, one_step, None, CPU)
    made = next(iter(sampler.draw(0, 5, 5)))
    assert sorted(made.labels.tolist()) == [0, 1, 2, 3, 4]
    rows = sampler.flow.text.rows(made.labels)
    again, _ = sampler.generate(sampler.noise(0, torch.arange(5)), rows)
    assert torch.equal(again, made.images)
    matched = run_job(
        MatchTeacher(teacher="teacher", data="data", network=TEXT_NETWORK, **TRAINING),
        teacher=teacher, data=data,
    )  # fmt: skip
    dmd = MatchDistribution(
        teacher="teacher", start="matched", data="data", score_samples=4, **TRAINING
    )
    made = run_job(dmd, teacher=teacher, start=matched, data=data)
    assert made.prompts.id == prompts.id


def test_what_prompts_do_not_fit(refused, prompts):
    image = ImageShape(channels=1, size=4, classes=2)
    data, text = Facts(image=image, made="Dataset"), Facts(prompt_classes=2, text_width=8)
    fields = {"data": "d", "prompts": "p", "network": TEXT_NETWORK, "steps": 1}
    train = TrainFlow(**fields)
    assert train.expect({"data": data, "prompts": text}).text_width == 8
    wide = Facts(prompt_classes=2, text_width=384)
    assert (
        "384 numbers a token, but the network takes 8"
        in refused(train, data=data, prompts=wide).what
    )
    other = Facts(prompt_classes=3, text_width=8)
    assert "3 classes" in refused(train, data=data, prompts=other).what
    adm = {"kind": "song_unet", "channels": 8}
    assert (
        "takes no texts"
        in refused(TrainFlow(**fields | {"network": adm}), data=data, prompts=text).what
    )
    plain = {"data": "d", "network": TEXT_NETWORK, "steps": 1}
    assert "takes texts, and there are none" in refused(TrainFlow(**plain), data=data).what
    network = parse_network(TEXT_NETWORK)
    flow = Facts(image=image.model_copy(update={"classes": 0}), network=network, made="Flow",
                 flow=Parameterisation(null_class=NO_TEXT))  # fmt: skip
    pairs = GeneratePairs(flow="t", count=4)
    assert "is conditional on texts" in refused(pairs, flow=flow).what
    given = GeneratePairs(flow="t", count=4, prompts="p", guidance=3.0, negative="ugly")
    assert given.expect({"flow": flow, "prompts": text}).text_width == 8
    assert refused(given, flow=flow, prompts=wide).field == "prompts"
    labelled = Facts(image=image, network=parse_network(adm), made="Flow",
                     flow=Parameterisation(null_class=2))  # fmt: skip
    negative = GeneratePairs(flow="t", count=4, guidance=3.0, negative="ugly")
    assert "a class has no opposite" in refused(negative, flow=labelled).what
    alone = GeneratePairs(flow="t", count=4, negative="ugly")
    assert refused(alone, flow=labelled).field == "negative"


def test_an_imported_pipeline_takes_prompts(store, run_job, test_data, tmp_path):
    """The teacher of a folder, its own encoder's prompts and theirs pairs: those of the flow."""
    from slimctl.jobs.kinds.import_teacher import ImportTeacher
    from slimctl.models.checkpoints import load_teacher

    folder = test_data / "latent" / "sd15" / "pipeline"
    if not folder.is_dir():
        pytest.skip("the development data has no latent pipelines")
    known = json.loads((folder.parent / "reference.json").read_text())
    teacher = run_job(ImportTeacher(path=str(folder)))
    assert isinstance(teacher, Flow)
    prompts = [(each, None) for each in known["prompts"]]
    embedded = embed_prompts(store, tmp_path, prompts, encoder=str(folder), length=None)
    spec = GeneratePairs(
        flow="t", prompts="p", count=2, shard_size=2, solver={"kind": "euler", "steps": 2},
        guidance=3.0, negative=known["negative_prompts"][0],
    )  # fmt: skip
    pairs = run_job(spec, flow=teacher, prompts=embedded)
    flow, index = load_teacher(folder), torch.arange(2)
    number = pair_labels(0, index, pairs)
    driven = flow.guided(3.0, known["negative_prompts"][0])
    text = flow.encode([known["prompts"][at] for at in number.tolist()])
    x1 = solve(EulerSpec(steps=2), driven, pair_noise(0, index, pairs.image), text).x1
    stored = read_pairs(store, pairs).float()
    assert (x1 - stored).abs().max() < 5e-3 * x1.abs().max()


def test_a_fleet_finds_the_student_of_a_prompt(store, run_job, pairs, prompts, tmp_path):
    """Parts by k-means, a student of each, and a router for prompts that nobody numbered."""
    partition = run_job(
        SplitConditions(prompts="prompts", method="kmeans", count=2), prompts=prompts
    )
    assert sorted(partition.sizes) == [2, 3]
    assert partition.subsets == ()
    parts = read_parts(store, partition)
    spec = AnnealReflow(
        pairs="pairs", network=TEXT_NETWORK, partition="partition", part=0, **TRAINING
    )
    students = [
        run_job(
            spec.model_copy(update={"part": part, "seed": part}), pairs=pairs, partition=partition
        )
        for part in (0, 1)
    ]
    own = marginal_of(store, students[1])
    assert own.numbers.tolist() == (parts == 1).nonzero().squeeze(1).tolist()
    source = PairSource(store, pairs, CPU, tuple(own.numbers.tolist()))
    assert set(source.batch(torch.arange(source.count))[2].tolist()) <= set(own.numbers.tolist())
    fleet = run_job(
        AssembleFleet(partition="partition", students=("a", "b")),
        partition=partition, **{"students.0": students[1], "students.1": students[0]},
    )  # fmt: skip
    flow = open_fleet(store, fleet, CPU)
    text = flow.encode([each for each, _ in TEXTS])
    assert flow.router.member(text).tolist() == parts.tolist()
    assert flow.router.member(torch.arange(5)).tolist() == parts.tolist()
    x0, t = torch.randn(5, 1, 4, 4), torch.full((5,), 0.3)
    made = flow.velocity(x0, t, text)
    for row in range(5):
        student = open_flow(store, students[int(parts[row])], CPU)
        wanted = student.velocity(x0[[row]], t[:1], text[[row]])
        assert torch.allclose(made[[row]], wanted, atol=1e-5)
    write_samples(store, fleet.id, tmp_path / "x.npz", count=3, seed=1, nfe=2,
                  asked=Asked("the digit one"))  # fmt: skip
    with np.load(tmp_path / "x.npz") as held:
        assert held["images"].shape == (3, 4, 4, 1)
        assert held["labels"].tolist() == [-1, -1, -1]
        drawn = held["images"]
    write_samples(store, students[int(parts[3])].id, tmp_path / "y.npz", count=3, seed=1, nfe=2,
                  asked=Asked("the digit one"))  # fmt: skip
    with np.load(tmp_path / "y.npz") as held:
        assert np.array_equal(held["images"], drawn)


def test_a_model_is_measured_on_prompts_that_it_has_not_seen(
    store, run_job, teacher, data, tmp_path
):
    """Quality by class is by what a prompt asks for, not by its number."""
    held_out = [(f"{article} {word}", at) for article in ("an", "of") for at, word in
                enumerate(("zero", "one"))]  # fmt: skip
    (tmp_path / "held").mkdir()
    prompts = embed_prompts(store, tmp_path / "held", held_out, name="encode_prompts-held")
    network = {"kind": "classifier", "channels": 4, "features": 4}
    features = run_job(TrainFeatures(data="data", steps=2, network=network), data=data)
    spec = Evaluate(
        model="teacher", data="data", features="features", prompts="prompts", samples=60,
        guidance=2.0, solver={"kind": "euler", "steps": 1}, neighbours=2,
    )  # fmt: skip
    report = run_job(spec, model=teacher, data=data, features=features, prompts=prompts)
    assert report.nfe == 2.0
    assert report.classes == ()  # of 12 images no class has the 20 that figures take
    wrong = Evaluate(model="f", data="d", features="n", prompts="p", samples=60)
    fleet = Facts(made="Fleet", one_step=True)
    with pytest.raises(FieldError, match="is a fleet"):
        wrong.expect({"model": fleet, "data": Facts(), "features": Facts(), "prompts": Facts()})


def test_what_cannot_be_sampled_by_a_prompt(store, teacher, make_model, tmp_path):
    def refused(model, **asked):
        with pytest.raises(UserError) as error:
            write_samples(
                store, model.id, tmp_path / "x.npz", count=1, seed=0, asked=Asked(**asked)
            )
        return f"{error.value.what}; {error.value.fix}"

    write_samples(
        store, teacher.id, tmp_path / "x.npz", count=2, seed=0, nfe=1,
        asked=Asked("a one", "nine", 3.0),
    )  # fmt: skip
    classes = make_model(Flow, label_counts=(1, 1))
    assert "takes no texts" in refused(classes, prompt="a one")
    assert "no null class" in refused(classes, guidance=2.0)
    assert "a class has no opposite" in refused(classes, guidance=2.0, negative="ugly")
    assert "add --guidance" in refused(teacher, prompt="a one", negative="ugly")
    assert "is empty" in refused(teacher, prompt=" ")
    alone = put(
        store, "flow-alone", teacher.model_copy(update={"prompts": None, "encoder": None}),
        {"weights.safetensors": store.file(teacher, teacher.file).read_bytes()},
    )  # fmt: skip
    assert "takes no texts" in refused(alone, prompt="a one")
