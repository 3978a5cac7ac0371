"""Reads pickles that may name a few stand-ins and nothing else, within the size of their file.

A pickle is a program. Before it is begun it is read through: one that uses other instructions,
promises more bytes than the file has, numbers its values beyond their count (the table of an
unpickler is as long as the largest number), or nests values so deeply that hashing or freeing them
would overflow the stack, is refused. What remains can fill no more memory than its file is long.
"""

import pickle
import pickletools
from collections.abc import Callable, Collection
from io import BufferedIOBase
from typing import IO, Any, cast

# fmt: off
INSTRUCTIONS = frozenset({
    "PROTO", "FRAME", "MARK", "STOP",
    "NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BYTEARRAY8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
    "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
})
"""Instructions that a pickle may use: plain values, containers, and calls of what it may name."""
OBJECT_INSTRUCTIONS = frozenset({
    "NEWOBJ", "NEWOBJ_EX", "EMPTY_SET", "ADDITEMS", "FROZENSET",
    "BINBYTES8", "BINUNICODE8", "LONG4",
})
# fmt: on
"""Those that objects, sets and large values need besides."""
STORES = ("PUT", "BINPUT", "LONG_BINPUT")
"""Instructions that put a value into the numbered table."""
FETCHES = ("GET", "BINGET", "LONG_BINGET")
"""Instructions that take a value from it."""
INTO_FIRST = ("APPEND", "SETITEM", "BUILD", "APPENDS", "SETITEMS", "ADDITEMS")
"""Instructions that put values into the one below them."""
MAX_DEPTH = 400
"""Containers within containers; a snapshot of a network has some 50."""


class RefusedError(ValueError):
    """A pickle names or uses something that it may not."""


class Inert:
    """Stands for what is read and never used: it forgets what it is given."""

    __slots__ = ()
    named = ""
    """What it stands for, where a message needs it."""

    def __new__(cls, *arguments: object, **named: object) -> Any:
        """Forgets what it is made of."""
        del arguments, named
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forgets the state."""

    def __setitem__(self, key: object, value: object) -> None:
        """Forgets the entry."""

    def extend(self, values: object) -> None:
        """Forgets the values."""

    append = add = extend


class Function:
    """Stands for a function. Without slots of its own, a pickle cannot change it."""

    __slots__ = ("_call",)
    _call: Callable[..., object]

    def __init__(self, call: Callable[..., object]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("a pickle cannot change what it may call")


def load_inert(
    file: BufferedIOBase,
    find: Callable[[str, str], object],
    instructions: Collection[str] = INSTRUCTIONS,
    encoding: str = "ASCII",
) -> Any:
    """The value of a pickle.

    Args:
        file: a file that can be read from its start again.
        find: module and name -> the stand-in; raises RefusedError for what may not be named.
        instructions: names of the instructions that it may use.
        encoding: of the strings of Python 2.

    Raises:
        RefusedError: it uses another instruction, or what `find` refuses.
        Exception: it is damaged; anything at all can come from the unpickler and the stand-ins.
    """
    check_pickle(file, instructions)
    file.seek(0)
    return _Unpickler(file, find, encoding).load()


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: BufferedIOBase, find: Callable[[str, str], object], encoding: str
    ) -> None:
        super().__init__(file, encoding=encoding)
        self._find = find

    def find_class(self, module: str, name: str) -> Any:
        return self._find(module, name)


class _Window:
    """A file that refuses to be asked for more bytes than it has."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        start = file.tell()
        self._size = file.seek(0, 2)
        self.readline = file.readline
        self.tell = file.tell
        file.seek(start)

    def require(self, count: int) -> None:
        """Raises ValueError if fewer bytes are left."""
        left = self._size - self._file.tell()
        if count > left:
            raise ValueError(f"a value of {count:,} bytes where {left:,} are left")

    def read(self, count: int) -> bytes:
        self.require(count)
        return self._file.read(count)


def check_pickle(file: BufferedIOBase, instructions: Collection[str]) -> list[tuple[str, str]]:
    """Reads the program at the file's place through without running it.

    Returns:
        What it names by GLOBAL: module and name.

    Raises:
        RefusedError: it uses another instruction.
        ValueError: it is damaged, or would take more memory than the file is long.
    """
    window, depths, names = _Window(file), _Depths(), []
    for count, (instruction, argument, _) in enumerate(
        pickletools.genops(cast("IO[bytes]", window))
    ):
        if instruction.name not in instructions:
            raise RefusedError(f"{instruction.name} {argument or ''}".rstrip())
        if instruction.name == "FRAME":
            window.require(int(argument or 0))
        # The unpickler makes room for every number up to this one; honest ones count upwards.
        if instruction.name in STORES and int(argument or 0) > count:
            raise ValueError(f"entry {argument} of a table of {count}")
        if instruction.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            names.append((module, name))
        depths.follow(instruction, argument)
    return names


class _Depths:
    """How deep each value on the unpickler's stack is nested, without the values."""

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._marks: list[int] = []
        self._table: dict[int, int] = {}

    def follow(self, instruction: pickletools.OpcodeInfo, argument: Any) -> None:
        """Does to the depths what the instruction does to the values."""
        name, stack = instruction.name, self._stack
        if name == "MARK":
            self._marks.append(len(stack))
        elif name in STORES or name == "MEMOIZE":
            self._table[len(self._table) if name == "MEMOIZE" else int(argument)] = stack[-1]
        elif name in FETCHES:
            stack.append(self._table[int(argument)])
        else:
            taken = self._take(instruction)
            if instruction.stack_after:
                stack.append(_depth(name, taken))

    def _take(self, instruction: pickletools.OpcodeInfo) -> list[int]:
        before = instruction.stack_before
        start = len(self._stack) - len(before)
        if pickletools.markobject in before:
            start = self._marks.pop() - before.index(pickletools.markobject)
        if start < 0:
            raise ValueError(f"{instruction.name} with too little before it")
        taken = self._stack[start:]
        del self._stack[start:]
        return taken


def _depth(name: str, taken: list[int]) -> int:
    if not taken:
        return 0
    into = name in INTO_FIRST
    depth = 1 + max(taken[1:] if into else taken, default=-1)
    depth = max(depth, taken[0]) if into else depth
    if depth > MAX_DEPTH:
        raise ValueError(f"values nested more than {MAX_DEPTH} deep")
    return depth


NUMPY_PARTS = ("numpy.core", "numpy._core", "numpy.random", "numpy.ma", "numpy.dtypes")
HARMLESS = frozenset({
    "_codecs", "_random", "argparse", "array", "collections", "copyreg", "dataclasses", "datetime",
    "decimal", "easydict", "enum", "fractions", "ml_collections", "omegaconf", "pathlib", "random",
    "uuid",
})  # fmt: skip
"""Packages whose values say how somebody trained: whatever is named in them is forgotten."""
HARMLESS_NAMES = frozenset({
    "numpy.dtype", "numpy.ndarray", "torch.Size", "torch.device", "torch.dtype", "torch.Generator",
    "torch.random", "functools.partial", "types.SimpleNamespace",
    "dnnlib.util.EasyDict",
    *(f"builtins.{name}" for name in (
        "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list",
        "object", "range", "set", "slice", "str", "tuple", "type",
    )),
    *(f"torch.{name}" for name in (
        "bfloat16", "bool", "complex64", "complex128", "float16", "float32", "float64", "int8",
        "int16", "int32", "int64", "uint8", "strided", "channels_last", "contiguous_format",
    )),
    *(f"numpy.{name}" for name in (
        "bool_", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "str_",
        "uint8", "uint16", "uint32", "uint64",
    )),
})  # fmt: skip
"""Single names of the same kind."""
ACTING = frozenset({
    "asyncio", "bdb", "code", "codeop", "commands", "ctypes", "dill", "cloudpickle", "http",
    "importlib", "joblib", "marshal", "multiprocessing", "nt", "ntpath", "os", "pdb", "pickle",
    "pip", "pkgutil", "platform", "popen2", "posix", "posixpath", "profile", "pty", "requests",
    "runpy", "shutil", "signal", "site", "socket", "ssl", "subprocess", "sys", "tempfile",
    "threading", "timeit", "urllib", "webbrowser", "zipimport", "operator",
})  # fmt: skip
"""Packages that act on the machine: no honest checkpoint names them."""


def is_harmless(module: str, name: str) -> bool:
    """Whether it is known to be of no use and no harm."""
    return (
        module.partition(".")[0] in HARMLESS
        or module.startswith(NUMPY_PARTS)
        or f"{module}.{name}" in HARMLESS_NAMES
    )


def acts(module: str, name: str) -> bool:
    """Whether it is something that acts on the machine, so that naming it is an attack."""
    root = module.partition(".")[0]
    if root in ("builtins", "__builtin__"):
        return not is_harmless("builtins", name) and name != "getattr"
    if f"{module}.{name}" == "torch.serialization._get_layout":
        return False
    loads = f"{module}.{name}" in ("numpy.load", "torch.load")
    return root in ACTING or loads or module in ("torch.hub", "torch.serialization")


def what_to_do(module: str, name: str) -> str:
    """What to do about a file that names it."""
    if acts(module, name):
        return "do not trust this file; fetch it from its authors"
    return f"save the weights alone where {module} is known, by torch.save of a state dictionary"
