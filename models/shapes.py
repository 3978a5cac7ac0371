"""Shape annotations such as `Float[Tensor, "b c h w"]`, usable without jaxtyping.

`models` must run on a bare GPU machine, so where jaxtyping is missing the names become
stand-ins that annotate nothing. Tests switch the checks on.
"""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, UInt8
    except ImportError:

        class _Annotation:
            def __class_getitem__(cls, item: tuple[type, str]) -> type:
                return item[0]

        Bool = Float = Int = UInt8 = _Annotation

__all__ = ["Bool", "Float", "Int", "Tensor", "UInt8"]
