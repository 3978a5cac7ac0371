"""Runs code on `cuda:0` where there is none: what it computes is real, only the device is not.

    with fake_cuda() as device:
        network = spec.build(image).to("cuda")
        with device.count() as step:
            network(torch.randn(8, 3, 32, 32, device="cuda"), t, None)
        print(step)

Every tensor on the fake device holds a tensor of the CPU, which does the work, so a solver's loop
ends and a loss is a number. Seen are: tensors on different devices in one operation (an error),
waits of the host for the device, copies across and whether they are from pinned memory, kernels,
and the bytes that they read and write. Not seen are times, what cuDNN chooses, and what a compiler
fuses. Attention is written out, as where no fused kernel takes it.

The C++ part of torch asks its CUDA library whether there is a device and which stream it computes
on. `persuade` has it answer without one, for good, so every user of this file is a process of
its own: `tests/jobs/test_fake_cuda.py` starts one.
"""

import contextlib
import ctypes
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
_SLOTS = 64
"""More than the functions of the interfaces that are replaced."""
_CUDA_SLOT = 1
"""Of CUDA among torch's kinds of devices."""


def persuade() -> str:
    """Gives torch a CUDA device of which every answer is 1; returns why that is impossible, or "".

    1 is right for all of them: yes, one device, CUDA's number among the kinds of devices, and, as
    the two bytes of a `Device`, cuda:0. `Py_IsInitialized` is a function that always returns it.
    """
    folder = Path(torch.__file__).parent / "lib"
    try:
        core = ctypes.CDLL(str(folder / "libc10.so"))
        ask = ctypes.CDLL(str(folder / "libtorch_cpu.so"))._ZN2at6detail12getCUDAHooksEv
        guards = (ctypes.c_void_p * (_CUDA_SLOT + 1)).in_dll(
            core, "_ZN3c104impl26device_guard_impl_registryE"
        )
    except (OSError, AttributeError, ValueError) as error:
        return f"this build of torch keeps its devices elsewhere: {error}"
    if guards[_CUDA_SLOT] is not None:
        return ""
    one = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, ctypes.c_void_p).value
    guard = (ctypes.c_void_p * _SLOTS)(*[one] * _SLOTS)
    _KEPT.append(guard)
    _KEPT.append((ctypes.c_void_p * 1)(ctypes.addressof(guard)))
    guards[_CUDA_SLOT] = ctypes.addressof(_KEPT[-1])
    ask.restype = ctypes.c_void_p
    hooks = ctypes.c_void_p.from_address(ask())
    head = 2 * ctypes.sizeof(ctypes.c_void_p)  # of a table of virtual functions: offset and type
    functions = ctypes.c_void_p * _SLOTS
    answers = functions.from_buffer_copy(functions.from_address(hooks.value - head))
    for slot in (2, 3, 4):  # isBuilt, isAvailable and hasPrimaryContext, behind two destructors
        answers[2 + slot] = one
    _KEPT.append(answers)
    hooks.value = ctypes.addressof(answers) + head
    return ""


_KEPT: list[Any] = []
"""What C++ points to."""


class OnCuda(torch.Tensor):
    """A tensor that says that it is on cuda:0; `held` is what it holds."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Self:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=CUDA
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"OnCuda({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnCuda":
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        copied._is_param = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), copied)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _DEVICE[-1].run(func, args, kwargs or {})


@dataclass
class Step:
    """What the device and the host did meanwhile."""

    kernels: Counter = field(default_factory=Counter)
    """Launches, by operation."""
    moved: Counter = field(default_factory=Counter)
    """Bytes that they read and write."""
    waits: list[str] = field(default_factory=list)
    """Where the host waited for the device."""
    copies: Counter = field(default_factory=Counter)
    """Bytes copied `to` and `from` the device, and those `pageable` of the first."""
    sent: int = 0
    """Copies to the device."""

    def totals(self) -> dict[str, int]:
        """Numbers for a table."""
        return {
            "kernels": self.kernels.total(),
            "bytes": self.moved.total(),
            "copied": self.copies["to"] + self.copies["from"],
            "waits": len(self.waits),
        }

    def __str__(self) -> str:
        rows = [
            f"  {n:6d} {self.moved[name]:12d}  {name}" for name, n in self.kernels.most_common()
        ]
        waits = [f"  waited at {each}" for each in self.waits]
        return "\n".join([str(self.totals()), *waits, *rows])


_VIEWS = frozenset(["_unsafe_view", "_reshape_alias", "alias", "detach", "lift_fresh"])
"""Operations that launch nothing and do not call themselves views."""
_WAITING = frozenset(
    [
        *("_local_scalar_dense", "_unique2", "bincount", "equal", "masked_select", "nonzero"),
        *("repeat_interleave", "unique_consecutive", "unique_dim"),
    ]
)
"""Operations whose result, or its shape, the host waits for."""
_ACROSS = frozenset(["_to_copy", "copy_"])


class Device(TorchDispatchMode):
    """The fake device: carries out operations and notes what they would be on a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.step = Step()
        self._pinned: dict[int, torch.Tensor] = {}

    @contextlib.contextmanager
    def count(self) -> Iterator[Step]:
        """What happens inside."""
        outer, self.step = self.step, Step()
        try:
            yield self.step
        finally:
            self.step = outer

    def waited(self, what: str) -> None:
        """Notes that the host waited, and where in our code."""
        frames = traceback.extract_stack()
        ours = [f for f in frames if "site-packages" not in f.filename and f.filename != __file__]
        self.step.waits.append(f"{what}, {ours[-1].filename}:{ours[-1].lineno}: {ours[-1].line}")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        """One operation, on whichever device its tensors are or `device` names."""
        if torch.is_inference_mode_enabled() and _is_made_of_others(func.name()):
            with self:
                return func.decompose(*args, **kwargs)
        inputs = _tensors((args, tuple(kwargs.values())))
        here = [each for each in inputs if isinstance(each, OnCuda)]
        name = func._schema.name.partition("::")[2]
        asked = kwargs.get("device")
        target = None if asked is None else torch.device(asked).type
        if not here and target != "cuda":
            return self._on_the_host(func, name, args, kwargs)
        if name not in _ACROSS:
            _check_devices(func, inputs)
        if target is not None:
            kwargs = kwargs | {"device": CPU}
        held = {key: _mapped(value, _held) for key, value in kwargs.items()}
        made = _carry_out(func, name, _mapped(args, _held), held)
        known = {id(each.held): each for each in here}
        to_host = target == "cpu" or (name == "copy_" and not isinstance(args[0], OnCuda))
        out = args[0] if name == "copy_" else made
        if name != "copy_" and not to_host:  # what was changed in place is the tensor that it was
            out = _mapped(made, lambda each: known[id(each)] if id(each) in known else OnCuda(each))
        self._note(func, name, args, kwargs, inputs, out)
        return out

    def _on_the_host(self, func, name, args, kwargs):
        if name == "_pin_memory" or kwargs.get("pin_memory"):
            kept = {k: v for k, v in kwargs.items() if k not in ("pin_memory", "device")}
            made = args[0].clone() if name == "_pin_memory" else func(*args, **kept)
            self._pinned[made.untyped_storage().data_ptr()] = made
            return made
        if name == "is_pinned":
            return args[0].untyped_storage().data_ptr() in self._pinned
        return func(*args, **kwargs)

    def _note(self, func, name, args, kwargs, inputs, out) -> None:
        if name in _VIEWS or func.is_view or func.namespace == "prim":
            return
        outputs = _tensors(out)
        if name in _WAITING or _has_mask(name, args):
            self.waited(name)
        if name in _ACROSS and len({each.device.type for each in inputs + outputs}) > 1:
            self._note_copy(name, args, kwargs, outputs[0])
            return
        on_device = [each for each in inputs + outputs if isinstance(each, OnCuda)]
        self.step.kernels[name] += 1
        self.step.moved[name] += sum(each.numel() * each.element_size() for each in on_device)

    def _note_copy(self, name, args, kwargs, out) -> None:
        source = args[1] if name == "copy_" else args[0]
        at_once = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        size = out.numel() * out.element_size()
        arrives = isinstance(out, OnCuda)
        self.step.copies["to" if arrives else "from"] += size
        self.step.sent += arrives
        if arrives and source.untyped_storage().data_ptr() not in self._pinned:
            self.step.copies["pageable"] += size
        if not at_once:
            self.waited("a copy")


_DEVICE: list[Device] = []


def _is_made_of_others(name: str) -> bool:
    """Whether an operation calls others; in inference mode such ones come as they were called."""
    key = "CompositeImplicitAutograd"
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


def _tensors(tree: Any) -> list[torch.Tensor]:
    """Those in (lists of) arguments, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [each for part in tree for each in _tensors(part)] if type(tree) in _NESTED else []


def _mapped(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(tree, torch.Tensor):
        return change(tree)
    return type(tree)(_mapped(part, change) for part in tree) if type(tree) in _NESTED else tree


def _held(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.held if isinstance(tensor, OnCuda) else tensor


_NESTED = (tuple, list)


def _check_devices(func: Any, inputs: list[torch.Tensor]) -> None:
    """Raises RuntimeError as torch does: of the host's tensors single numbers may take part."""
    strangers = [each for each in inputs if not isinstance(each, OnCuda) and each.dim() > 0]
    if strangers:
        shapes = ", ".join(str(tuple(each.shape)) for each in strangers)
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {func} got one of {shapes} on the CPU"
        )


def _has_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation picks by a mask, for which it has to count first."""
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    return any(each is not None and each.dtype == torch.bool for each in args[1])


def _carry_out(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """An operation on the CPU, with the memory formats of CUDA's."""
    if name == "_fused_sdp_choice":
        return 0  # written out
    if name == "convolution":
        last = torch.channels_last
        inputs = [each for each in args[:2] if each.dim() == 4]
        if any(each.is_contiguous(memory_format=last) for each in inputs):
            return func(*args, **kwargs).contiguous(memory_format=last)
    return func(*args, **kwargs)


class _Event:
    """An event of a device on which everything has happened already."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _Stream:
    """The stream that everything is done on."""

    def is_capturing(self) -> bool:
        return False


@contextlib.contextmanager
def fake_cuda(
    free: float = 79e9, total: float = 80e9, capability: tuple[int, int] = (9, 0)
) -> Iterator[Device]:
    """The device, with so much free memory, bytes, and what code asks of one.

    Raises:
        RuntimeError: this build of torch cannot be persuaded.
    """
    if reason := persuade():
        raise RuntimeError(reason)
    device = Device()

    def synchronize(*_: Any) -> None:
        device.waited("synchronize")

    patched = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: capability,
        "get_device_name": lambda *_: "fake",
        "mem_get_info": lambda *_: (int(free), int(total)),
        "manual_seed": torch.default_generator.manual_seed,
        "synchronize": synchronize,
        "Event": _Event,
    }
    future = torch.__future__
    before = future.get_overwrite_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        for name, value in patched.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch.accelerator, "synchronize", synchronize))
        stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", _Stream))
        stack.callback(future.set_overwrite_module_params_on_conversion, before)
        future.set_overwrite_module_params_on_conversion(True)  # the type of a weight changes
        torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor's data come by `to`
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        autocast = torch.cuda.amp.common
        doubt = "amp_definitely_not_available"
        stack.enter_context(mock.patch.object(autocast, doubt, return_value=False))
        _DEVICE.append(device)
        stack.callback(_DEVICE.pop)
        stack.enter_context(device)
        yield device
