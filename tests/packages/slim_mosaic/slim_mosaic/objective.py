"""What `train-mosaic` minimises."""

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import Objective, Share
from slimctl.models.flows.spec import UniformTime
from slimctl.models.pixels import to_float


class MosaicMatching(Objective):
    """Huber loss of the velocity on straight lines from noise to tiles."""

    def __init__(self, store, spec, handles) -> None:
        self._store, self._spec, self._mosaic = store, spec, handles["mosaic"]

    def prepare(self, share: Share) -> None:
        file = self._store.file(self._mosaic, self._mosaic.file)
        self._tiles = load_file(file)["tiles"].to(share.device)
        self._draws = Draws(self._spec.seed or 0, share, self._mosaic.image)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        x1 = to_float(self._tiles[self._draws.samples(step, len(self._tiles))])
        x0, t = self._draws.noise(step), self._draws.times(step, UniformTime())
        xt = x0 + t[:, None, None, None] * (x1 - x0)
        return functional.huber_loss(network(xt, t, None), x1 - x0)
