"""The precisions a network can be computed in, without importing torch."""

from typing import Literal

Precision = Literal["float32", "bfloat16"]
"""Of matrix products and convolutions; everything else is float32."""
