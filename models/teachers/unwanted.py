"""What stands in checkpoints beside the weights, and is forgotten as it is read.

Options, random states, paths and numbers of numpy are of no use here. They become stand-ins that
do nothing, so naming them is no attack; naming what acts on the machine is.
"""

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
    loads = f"{module}.{name}" in ("numpy.load", "torch.load")
    return root in ACTING or loads or module in ("torch.hub", "torch.serialization")


def what_to_do(module: str, name: str) -> str:
    """What to do about a file that names it."""
    if acts(module, name):
        return "do not trust this file; fetch it from its authors"
    return f"save the weights alone where {module} is known, by torch.save of a state dictionary"
