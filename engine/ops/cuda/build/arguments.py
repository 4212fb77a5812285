"""Argument blocks: kernel arguments that travel together, each with its name and its meaning.

A kernel's function takes a block as one parameter and reads its fields as attributes. At the
boundary of a kernel numba takes a named tuple apart, so the machine code has one parameter per
field, in the order of the fields: it is the same code, and the same launch, as if every field
were a parameter of its own. A block knows nothing of devices and launches nothing.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from numba.cuda import types


class ArgumentBlock:
    """Names, types and meanings of arguments that one parameter of a kernel's function holds.

    Parameters
    ----------
    name : str
        Name of the block, for error messages and for numba.
    **fields : (numba type, str)
        Type and meaning of each field, in the order of the machine code's parameters.

    Attributes
    ----------
    names : tuple of str
    types : tuple of numba types
    meanings : dict of str to str
    type : numba type
        Named tuple of the fields: the type of the function's parameter.
    """

    def __init__(self, name: str, **fields: tuple[Any, str]) -> None:
        self.name = name
        self.names = tuple(fields)
        self.types = tuple(kind for kind, _ in fields.values())
        self.meanings = {field: meaning for field, (_, meaning) in fields.items()}
        made = namedtuple(name, self.names)  # type: ignore[misc]  # fields are known at run time
        self.type = types.BaseTuple.from_types(self.types, made)

    def __call__(self, **values: Any) -> tuple[Any, ...]:
        """The values in the order of the fields, as `Context.launch` takes them.

        Raises
        ------
        TypeError
            A field is missing, or a name is none of the block's.
        """
        if values.keys() != set(self.names):
            missing = [f"{f}: {self.meanings[f]}" for f in self.names if f not in values]
            unknown = [field for field in values if field not in self.names]
            raise TypeError(
                f"{self.name}: expected exactly its fields, found {missing} missing and "
                f"{unknown} that it does not have"
            )
        return tuple(values[field] for field in self.names)

    def empty(self) -> tuple[Any, ...]:
        """Null pointers and zeros, for a launch whose kernel does not read the block."""
        return tuple(None if isinstance(kind, types.CPointer) else 0 for kind in self.types)
