"""`Tensor`, under the name that code above the reader uses."""

from engine.gguf.tensor import Tensor

__all__ = ["Tensor"]
