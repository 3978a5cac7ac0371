"""Ray Train's workers of torch, which take signals.

A handler can be set in a process's main thread only, and a training runs in another one.
"""

from typing import Any

from ray.train.torch import TorchConfig

from slimctl.jobs.training.leaving import listen


class _Listening(TorchConfig().backend_cls):  # type: ignore[misc]
    """Sets handlers before the training begins."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Runs in Ray Train's controller."""
        super().on_start(worker_group, backend_config)
        worker_group.execute(listen)


class ListeningConfig(TorchConfig):  # type: ignore[misc]
    """Like TorchConfig, of workers that take signals."""

    @property
    def backend_cls(self) -> type:
        """What sets the workers up."""
        return _Listening
