"""Prompts beside labelled images: one of the prompts that ask for an image's class, at random."""

from collections.abc import Sequence

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import EmbeddedPrompts, Flow, Generator
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.texts import read_prompt_labels
from slimctl.jobs.training.draws import Draws
from slimctl.models.counter_random import Stream


class Captions:
    """The prompts of each class.

    Args:
        store: where they are.
        prompts: with labels.
        numbers: prompts that count; None = all.

    Attributes:
        classes: classes that one of them asks for, rising.

    Raises:
        UserError: no prompt has a label.
    """

    def __init__(
        self, store: Store, prompts: EmbeddedPrompts, numbers: Sequence[int] | None = None
    ) -> None:
        labels = read_prompt_labels(store, prompts.prompts)
        known = labels >= 0
        if numbers is not None:
            chosen = torch.zeros_like(known)
            chosen[torch.tensor(numbers)] = True
            known = known & chosen
        if not bool(known.any()):
            what = "has no prompts with labels, so nothing says which image they are of"
            raise UserError(prompts.prompts.id, what, "give prompts with a field `label`")
        number = known.nonzero().squeeze(1)
        order = torch.argsort(labels[number], stable=True)
        self._number = number[order]
        self._counts = torch.bincount(labels[self._number])
        self._starts = self._counts.cumsum(0) - self._counts
        self.classes = tuple(self._counts.nonzero().squeeze(1).tolist())

    def of(self, label: Tensor, draws: Draws, step: int) -> Tensor:
        """Numbers of prompts for images of these classes, drawn for a step: int64 (B,)."""
        if self._number.device != label.device:
            parts = (self._number, self._counts, self._starts)
            self._number, self._counts, self._starts = (part.to(label.device) for part in parts)
        place = draws.uniform(step, Stream.CAPTION) * self._counts[label]
        return self._number[self._starts[label] + place.long()]


def shown_classes(
    store: Store, model: Flow | Generator, labels: Sequence[int] | None
) -> tuple[int, ...] | None:
    """Classes of the images that a model of these labels is to make; None = all images.

    Of prompts those that they ask for, where they say so.
    """
    if model.prompts is None:
        return None if labels is None else tuple(labels)
    if not model.prompts.prompts.classes or labels is None:
        return None
    return Captions(store, model.prompts, labels).classes
