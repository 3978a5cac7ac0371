"""Teachers that take texts: every step of the reference runs, in our time."""

import json
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from slimctl.models.checkpoints import load_teacher
from slimctl.models.conditions import Embedded

pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
pytest.importorskip("transformers", reason="the extra `text` is not installed")

KINDS = ("sd15", "sdxl", "sd3", "pixart", "flux", "instaflow")
ARGUMENTS = {"instaflow": {"convention": "instaflow"}, "flux": {"embedded_guidance": 3.5}}
OTHER_METHODS = ("pndm", "dpmsolver")
"""Runs of solvers that are no Euler steps."""


@pytest.fixture(scope="module", params=KINDS)
def case(request, test_data):
    folder = test_data / "latent" / request.param
    if not folder.is_dir():
        pytest.skip("the development data has no latent pipelines")
    known = json.loads((folder / "reference.json").read_text())
    flow = load_teacher(folder / "pipeline", **ARGUMENTS.get(request.param, {}))
    return request.param, flow, known, load_file(folder / "reference.safetensors")


def sizes(wanted):
    return wanted["time_ids"][0].tolist() if "time_ids" in wanted else None


def test_prompts_are_embedded_as_the_pipeline_does(case):
    _, flow, known, wanted = case
    texts = {"prompt": known["prompts"], "negative": known["negative_prompts"], "empty": [""]}
    for key, prompts in texts.items():
        made = flow.encode(prompts)
        assert torch.allclose(made.sequence, wanted[f"{key}.embeds"], rtol=0, atol=2e-5)
        if f"{key}.pooled" in wanted:
            assert torch.allclose(made.pooled, wanted[f"{key}.pooled"], rtol=0, atol=2e-5)
        if f"{key}.mask" in wanted:
            assert torch.equal(made.mask, wanted[f"{key}.mask"])
        for number in (1, 2, 3):
            ids = wanted.get(f"{key}.ids_{number}", wanted.get(f"{key}.ids"))
            if number == 1 or f"{key}.ids_{number}" in wanted:
                assert torch.equal(flow.text.ids(prompts, number), ids)


def ours(name, run, sample, sigma, image):
    """A sample of a scheduler in our scale."""
    if name == "flux":
        b, c, size = len(sample), image.channels, image.size
        grid = sample.view(b, size // 2, size // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return grid.reshape(b, c, size, size)
    if run["schedule"]["class"] == "FlowMatchEulerDiscreteScheduler":
        return sample
    level = 1.0 if run["schedule"]["class"] == "EulerDiscreteScheduler" else (1 + sigma**2) ** 0.5
    return sample * level / (1 + sigma)


@torch.no_grad()
def test_the_steps_of_every_run_are_eulers_steps_of_the_velocity(case):
    name, flow, known, wanted = case
    if name == "instaflow":
        pytest.skip("its runs have no levels: the next test walks them")
    prompt = flow.encode(known["prompts"], sizes(wanted))
    for label, run in known["runs"].items():
        if label in OTHER_METHODS:
            continue
        negative = known["negative_prompts"] if "negative_prompt" in run else None
        scale = run.get("true_cfg_scale", 1.0) if name == "flux" else run["guidance_scale"]
        if name == "flux" and run["guidance_scale"] != 3.5:
            flow.network._guidance = run["guidance_scale"]
        driven = flow.guided(scale, negative)
        levels = zip(run["schedule"]["t"], run["schedule"]["sigmas"], strict=True)
        for i, ((t, sigma), (t_next, sigma_next)) in enumerate(pairwise(levels)):
            xt = ours(name, run, wanted[f"{label}.before"][i], sigma, flow.image)
            velocity = driven.velocity(xt, torch.full((len(xt),), t), prompt)
            after = ours(name, run, wanted[f"{label}.after"][i], sigma_next, flow.image)
            off = float((xt + (t_next - t) * velocity - after).abs().max())
            assert off < 1e-4 * float(after.abs().max()), (label, i)
        end = wanted[f"{label}.latents"] if name == "flux" else wanted[f"{label}.after"][-1]
        images = flow.decode(end)
        assert torch.allclose(images, wanted[f"{label}.image"], rtol=0, atol=1e-4), label
        if name == "flux":
            flow.network._guidance = 3.5


@torch.no_grad()
def test_the_network_alone_answers_as_recorded(case):
    name, flow, known, wanted = case
    prompt = flow.encode(known["prompts"], sizes(wanted))
    if name == "instaflow":
        made = flow.velocity(wanted["raw.x"], wanted["raw.t"], prompt)
        assert torch.allclose(made, wanted["raw.velocity"], rtol=0, atol=2e-5)
        x = wanted["noise"]
        for label, scale in (("plain", 1.0), ("guided", 2.0), ("negative", 2.0)):
            x = wanted["noise"]
            away = known["negative_prompts"] if label == "negative" else None
            driven = flow.guided(scale, away)
            for i in range(2):
                x = x + driven.velocity(x, torch.full((2,), i / 2), prompt) / 2
                off = float((x - wanted[f"{label}.after"][i]).abs().max())
                assert off < 1e-4 * float(x.abs().max())
        return
    if name == "flux":
        return
    time = wanted["raw.time"]
    is_flow = name == "sd3"
    told = 1.0 - time / 1000.0 if is_flow else time
    made = flow.network(wanted["raw.x"], told, prompt)
    answer = -made if is_flow else made
    channels = flow.image.channels
    assert torch.allclose(answer, wanted["raw.cond"][:, :channels], rtol=0, atol=2e-5)


def test_texts_and_labels_are_not_exchanged(case):
    name, flow, known, _ = case
    x = torch.randn(2, flow.image.channels, flow.image.size, flow.image.size)
    t = torch.full((2,), 0.5)
    with pytest.raises(ValueError, match=r"conditional on texts\n  fix: pass flow\.encode"):
        flow.velocity(x, t)
    with pytest.raises(ValueError, match="1 texts for 2 samples"):
        flow.velocity(x, t, flow.encode(known["prompts"][:1]))
    with pytest.raises(ValueError, match="no prompts"):
        flow.encode([])
    if name not in ("sdxl", "pixart"):
        with pytest.raises(ValueError, match="takes no sizes"):
            flow.encode("a", sizes=(1, 2))


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(case):
    _, flow, _, _ = case
    with pytest.warns(UserWarning, match=r"a prompt of \d+ tokens is cut to \d+"):
        flow.encode("a red cat on a table " * 200)


def test_rows_of_embedded_texts_follow_their_samples():
    made = Embedded(torch.arange(6.0).view(3, 2, 1), torch.ones(3, 2, dtype=torch.int64))
    part = made[torch.tensor([2, 0])]
    assert part.sequence[:, 0, 0].tolist() == [4.0, 0.0]
    assert (len(part), part.mask.shape, part.pooled) == (2, (2, 2), None)
    assert made[:1].repeat(3).sequence.shape == (3, 2, 1)
    with pytest.raises(ValueError, match="3 texts"):
        made.repeat(2)
