"""The exact flow of a data set: its velocity in closed form, no network and no training.

The oracle of the project: pairs, solvers and metrics are tested on it, and a pipeline can use it as
a teacher. The weights of the images are computed in float64: the squared distances of two similar
images to a point differ by less than the rounding of the whole, which in float32 shifts a weight
by up to 2 % (3072 pixels, images 0.003 apart).
"""

from collections.abc import Iterator

import torch

from slimctl.models.conditions import Condition, Embedded
from slimctl.models.flows.flow import Flow
from slimctl.models.flows.path import expand_time
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape

SMALLEST_BANDWIDTH = 1e-5
"""Bandwidth that 0 stands for: it keeps the velocity finite at t = 1, and an 8-bit step of a pixel
is 780 times as large."""


class AnalyticFlow(Flow):
    """The rectified flow from standard normal noise to the mixture sum_i N(mu_i, s^2 I) / n.

    mu_i are the images and s the bandwidth. Given image i, xt ~ N(t mu_i, q I) with
    q = t^2 s^2 + (1 - t)^2, so that with d_i = xt - t mu_i

        w_i          = softmax_i(-|d_i|^2 / (2 q))
        E[x1 | xt,i] = mu_i + (t s^2 / q) d_i
        E[x0 | xt,i] = ((1 - t) / q) d_i
        v(xt, t)     = sum_i w_i (E[x1 | xt,i] - E[x0 | xt,i])
                     = m + ((t s^2 - (1 - t)) / q) (xt - t m),      m = sum_i w_i mu_i

    At t = 0 that is mean(mu) - xt. At t = 1 it is xt for every s > 0, and bandwidth 0 is the limit
    s -> 0: `SMALLEST_BANDWIDTH`. The flow to single points is stiff at its end: a solver should
    control its error there (rk45) or not evaluate at t = 1 (euler, or heun with a last Euler step).

    Measured on the digits (1797 images, RMS distance to the nearest one): rk45 with tolerance 1e-4
    takes 85 evaluations and ends 6e-4 away; heun with 20 steps 0.025, with a last Euler step 0.

    A conditional flow uses the images of the label asked for only, and all of them for its null
    class, the number `classes`.

    Source: E[x1 - x0 | xt] minimises the rectified-flow loss, Liu et al., arXiv 2209.03003,
    equation 1; the rest is the posterior of a Gaussian mixture.
    """

    def __init__(
        self,
        images: Float[Tensor, "n c h w"],
        label: Int[Tensor, " n"] | None = None,
        classes: int = 0,
        bandwidth: float = 0.0,
        t_start: float = 0.0,
        chunk: int = 1024,
    ) -> None:
        """Keeps the images, sorted by class.

        Args:
            images: data in [-1, 1], at least one, height = width.
            label: class of each image; None for an unconditional flow.
            classes: number of classes; 0 without labels.
            bandwidth: standard deviation around each image, in units of pixel values, >= 0.
            t_start: flow time at which sampling starts, in [0, 1).
            chunk: images worked on at once: chunk x (pixels + batch) float64 of working memory.

        Raises:
            ValueError: no images, labels that do not fit, or a negative bandwidth.
        """
        count, channels, height, width = images.shape
        if count == 0 or height != width:
            raise ValueError(f"images have shape {tuple(images.shape)}: give square ones, n >= 1")
        if bandwidth < 0.0 or chunk < 1:
            raise ValueError(
                f"bandwidth is {bandwidth}, chunk {chunk}: at least 0 and 1 are needed"
            )
        super().__init__(ImageShape(channels=channels, size=height, classes=classes), t_start)
        starts, order = _class_starts(count, label, classes)
        self.null_class = classes if classes else None
        self.bandwidth = bandwidth
        self.chunk = chunk
        self._starts = starts
        self.points: Tensor
        self.half_squares: Tensor
        self.register_buffer("points", images.flatten(1)[order].float().contiguous())
        halves = [part.double().square().sum(1) / 2.0 for part in torch.split(self.points, chunk)]
        self.register_buffer("half_squares", torch.cat(halves))

    def _velocity(self, xt: Tensor, t: Tensor, label: Condition) -> Tensor:
        assert not isinstance(label, Embedded)  # checked
        mean = torch.empty_like(xt, dtype=torch.float64)
        for rows, first, last in self._groups(xt, label):
            mean[rows] = self._posterior_mean(xt[rows], t[rows], first, last)
        time = expand_time(t.double())
        variance = max(self.bandwidth, SMALLEST_BANDWIDTH) ** 2
        spread = time.square() * variance + (1.0 - time).square()
        pull = (time * variance - (1.0 - time)) / spread
        return (mean + pull * (xt - time * mean)).to(xt.dtype)

    def _groups(self, xt: Tensor, label: Tensor | None) -> Iterator[tuple[Tensor, int, int]]:
        """Rows of the batch that share their images, and the range of these images."""
        if label is None:
            yield torch.arange(len(xt), device=xt.device), 0, len(self.points)
            return
        for wanted in sorted(set(label.tolist())):
            if wanted == self.null_class:
                yield (label == wanted).nonzero().squeeze(1), 0, len(self.points)
                continue
            first, last = self._starts[wanted], self._starts[wanted + 1]
            if first == last:
                raise ValueError(f"the data has no image of class {wanted}: ask for another one")
            yield (label == wanted).nonzero().squeeze(1), first, last

    def _posterior_mean(self, xt: Tensor, t: Tensor, first: int, last: int) -> Tensor:
        """Mean m = sum_i w_i mu_i over images first..last-1, by a softmax over pieces of them."""
        point = xt.flatten(1).double()
        time = t.double().unsqueeze(1)
        variance = max(self.bandwidth, SMALLEST_BANDWIDTH) ** 2
        spread = time.square() * variance + (1.0 - time).square()
        best = torch.full_like(time, -torch.inf)
        total = torch.zeros_like(time)
        weighted = torch.zeros_like(point)
        for start in range(first, last, self.chunk):
            piece = slice(start, min(start + self.chunk, last))
            points = self.points[piece].double()
            # -|xt - t mu|^2 / (2 q) without |xt|^2, which all images share.
            logits = time * (point @ points.T - time * self.half_squares[piece]) / spread
            higher = torch.maximum(best, logits.amax(dim=1, keepdim=True))
            weights = (logits - higher).exp()
            fade = (best - higher).exp()
            total = total * fade + weights.sum(dim=1, keepdim=True)
            weighted = weighted * fade + weights @ points
            best = higher
        return (weighted / total).view_as(xt)


def _class_starts(
    count: int, label: Tensor | None, classes: int
) -> tuple[tuple[int, ...], Tensor | slice]:
    """First sorted image of each class and one past the last, and the order that sorts them."""
    if label is None and classes == 0:
        return (0, count), slice(None)
    if label is None or classes == 0:
        raise ValueError(f"classes is {classes}: labels and a number of classes go together")
    if len(label) != count or int(label.min()) < 0 or int(label.max()) >= classes:
        raise ValueError(f"give {count} labels, one per image, in 0..{classes - 1}")
    starts = torch.bincount(label, minlength=classes).cumsum(0).tolist()
    return (0, *starts), label.argsort(stable=True)
