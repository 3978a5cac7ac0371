"""What a reader returns: images, labels and what is known about them.

Class names make the number of classes known; without them it is the highest label plus one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class LoadedImages(NamedTuple):
    """A whole source in memory."""

    images: NDArray[np.uint8]
    """Shape (N, S, S, C), contiguous, 0..255; C is 1 (grey) or 3 (red, green, blue)."""
    labels: NDArray[np.int64] | None
    """Shape (N,), 0..class_count-1; None = unlabelled."""
    class_names: tuple[str, ...]
    """Name of each class; () = the source has none."""
    flip_valid: bool | None
    """Whether a mirrored image is as good as the original; None = not known for this source."""
    source: str
    """The source in words."""
    label_columns: tuple[str, ...] = ()
    """Columns that could be the labels of images that are read without."""

    @property
    def class_count(self) -> int:
        """Number of classes; 0 = unlabelled."""
        if self.labels is None:
            return 0
        return max(len(self.class_names), int(self.labels.max()) + 1)

    @property
    def label_counts(self) -> tuple[int, ...]:
        """Images of each class; () = unlabelled."""
        if self.labels is None:
            return ()
        return tuple(np.bincount(self.labels, minlength=self.class_count).tolist())
