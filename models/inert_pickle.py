"""Reads pickles that may name a few stand-ins and nothing else, within the size of their file.

A pickle is a program. Before it is begun it is read through: one that uses other instructions,
promises more bytes than the file has, numbers its values beyond their count (the table of an
unpickler is as long as the largest number), or nests values so deeply that hashing or freeing them
would overflow the stack, is refused. What remains can fill no more memory than its file is long.
"""

import pickle
import pickletools
from collections.abc import Callable, Collection
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


def load_inert(
    file: IO[bytes],
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
    _check(file, instructions)
    file.seek(0)
    return _Unpickler(file, find, encoding).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], find: Callable[[str, str], object], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._find = find

    def find_class(self, module: str, name: str) -> Any:
        return self._find(module, name)


class _Window:
    """A file that refuses to be asked for more bytes than it has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self.readline = file.readline
        self.tell = file.tell
        file.seek(0)

    def require(self, count: int) -> None:
        """Raises ValueError if fewer bytes are left."""
        left = self._size - self._file.tell()
        if count > left:
            raise ValueError(f"a value of {count:,} bytes where {left:,} are left")

    def read(self, count: int) -> bytes:
        self.require(count)
        return self._file.read(count)


def _check(file: IO[bytes], instructions: Collection[str]) -> None:
    """Reads the program through without running it."""
    window, depths = _Window(file), _Depths()
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
        depths.follow(instruction, argument)


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
