"""What can be made again from the store at any time, kept in its folder `cache` to save the time.

A file is named after a digest of all that decides its content. One that cannot be read is made
again: nothing depends on it.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import TypeVar

from safetensors.torch import load, save
from torch import Tensor

from slimctl.jobs.storage.store import Store

T = TypeVar("T")
Tensors = Mapping[str, Tensor]


def cached(
    store: Store,
    kind: str,
    asked: str,
    make: Callable[[], Tensors],
    read: Callable[[Tensors], T],
) -> T:
    """What was made of the same request before, or is made now and kept.

    Args:
        store: whose cache it is.
        kind: what it is, in a word: the beginning of the file's name.
        asked: everything that decides the content, a version of the format included.
        make: makes the tensors.
        read: what they mean; KeyError and ValueError say that they are damaged.
    """
    name = f"cache/{kind}-{hashlib.sha256(asked.encode()).hexdigest()[:24]}.safetensors"
    try:
        return read(load(store.blobs.read(name)))
    except (FileNotFoundError, KeyError, ValueError, RuntimeError):
        pass
    except Exception as error:
        if not type(error).__module__.startswith("safetensors"):  # cut short, or none at all
            raise
    tensors = {key: tensor.contiguous() for key, tensor in make().items()}
    store.blobs.write(name, save(tensors))
    return read(tensors)
