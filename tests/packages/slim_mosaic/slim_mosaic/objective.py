"""What `train-mosaic` minimises."""

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share
from slimctl.models.flows.spec import UniformTime
from slimctl.models.pixels import to_float


class MosaicMatching(Objective):
    """Huber loss of the velocity on straight lines from noise to tiles."""

    def __init__(self, spec, handles) -> None:
        self._spec, self._handles = spec, handles

    def prepare(self, share: Share) -> None:
        mosaic = self._handles[self._spec.mosaic]
        self._tiles = load_file(self._handles.store.file(mosaic, mosaic.file))["tiles"]
        self._draws = Draws(self._spec.seed or 0, share, mosaic.image)

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        draws = self._draws.of(part)
        x1 = to_float(self._tiles[draws.samples(step, len(self._tiles)).cpu()])
        x0, t = draws.noise(step), draws.times(step, UniformTime())
        xt = x0 + t[:, None, None, None] * (x1 - x0)
        return draws.weighted(functional.huber_loss(network(xt, t, None), x1 - x0))
