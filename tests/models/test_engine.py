import pytest
import torch
from torch import nn

from slimctl.models.engine import Engine, choose_engine, has_bfloat16, without_engine
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

CPU = torch.device("cpu")
IMAGE = ImageShape(channels=3, size=8)
SPEC = SongUNetSpec(channels=8, channel_multipliers=(1, 2), blocks=1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = SPEC.build(IMAGE)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return network


def call(engine, network):
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    runner = engine.runner(engine.place(network, CPU))
    return runner(x, torch.linspace(0.1, 0.9, 4), None).detach()


@pytest.mark.parametrize("able", [False, True])
def test_a_cpu_trains_in_bfloat16_only_where_it_has_the_instructions(monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    assert has_bfloat16(CPU) is able
    chosen = choose_engine(CPU, "training")
    assert chosen.precision == ("bfloat16" if able else "float32")
    assert (chosen.memory_format, chosen.compiled) == ("contiguous", False)


def test_sampling_is_float32_unless_asked_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert choose_engine(CPU, "sampling") == Engine()
    assert choose_engine(CPU, "sampling", "bfloat16").precision == "bfloat16"
    assert choose_engine(CPU, "training", "float32") == Engine()


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)])
def test_a_gpu_is_judged_by_its_capability(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen = choose_engine(torch.device("cuda"), "training")
    assert chosen.memory_format == "channels_last"
    assert (chosen.precision == "bfloat16") == (capability >= (8, 0))


def test_a_device_of_another_kind_has_float32():
    assert choose_engine(torch.device("meta"), "training") == Engine()


def test_the_default_engine_leaves_the_network_as_it_is(network):
    assert Engine().runner(network) is network


def test_bfloat16_is_near_and_comes_back_as_float32(network):
    plain, low = call(Engine(), network), call(Engine(precision="bfloat16"), network)
    assert low.dtype == torch.float32
    assert 0 < float((low - plain).norm() / plain.norm()) < 0.03


def test_the_memory_format_does_not_change_the_output(network):
    plain = call(Engine(), network)
    torch.testing.assert_close(call(Engine(memory_format="channels_last"), network), plain)
    assert network.stem.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_runner_has_the_networks_own_weights(network):
    runner = Engine(precision="bfloat16").runner(network)
    assert {id(w) for w in runner.parameters()} == {id(w) for w in network.parameters()}
    runner(torch.randn(2, 3, 8, 8), torch.rand(2), None).square().mean().backward()
    assert all(w.grad is not None and w.grad.dtype == torch.float32 for w in network.parameters())


def test_two_runs_give_the_same_bits(network):
    engine = choose_engine(CPU, "training")
    assert torch.equal(call(engine, network), call(engine, network))


def test_one_input_is_enough():
    layer = nn.Linear(3, 2)
    assert Engine(precision="bfloat16").runner(layer)(torch.ones(1, 3)).shape == (1, 2)


def precisions():
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision


@pytest.mark.parametrize("tf32", [False, True])
def test_products_are_set_alike_and_put_back(tf32):
    before = precisions()
    with Engine(tf32=tf32).products():
        assert precisions() == (("tf32",) * 2 if tf32 else ("ieee",) * 2)
        with Engine(tf32=not tf32).products():
            assert precisions() == (("ieee",) * 2 if tf32 else ("tf32",) * 2)
        assert precisions() == (("tf32",) * 2 if tf32 else ("ieee",) * 2)
    with pytest.raises(ZeroDivisionError), Engine(tf32=tf32).products():
        1 / 0  # noqa: B018
    assert precisions() == before


def test_a_gpus_networks_are_in_tf32_and_nothing_else_is(network):
    """What runs inside of them sees it; metrics beside them have IEEE's products."""
    seen = []
    network.register_forward_hook(lambda *_: seen.append(precisions()))
    with Engine().products():
        call(Engine(tf32=True), network)
        assert precisions() == ("ieee", "ieee")
    assert seen == [("tf32", "tf32")]


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)])
def test_a_gpu_that_has_tf32_samples_in_it(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen = choose_engine(torch.device("cuda"), "sampling")
    assert chosen.precision == "float32"
    assert chosen.tf32 == (capability >= (8, 0))


def test_float16_is_nearer_than_bfloat16(network):
    plain = call(Engine(), network)
    half = call(Engine(precision="float16"), network)
    low = call(Engine(precision="bfloat16"), network)
    assert half.dtype == torch.float32
    assert 0 < float((half - plain).norm()) < float((low - plain).norm()) / 4


def test_the_network_behind_an_engine(network):
    assert without_engine(Engine(precision="float16").runner(network)) is network
    assert without_engine(network) is network
