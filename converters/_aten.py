"""The ATen table: what each operation of an exported PyTorch graph is in the vocabulary of :mod:`gbn.ops`.

A rule reads a :class:`Call` and returns the value it emits, or for an operation of several results one maker for each.
Rules find arguments by the names of the ATen schema, so positional and keyword forms are the same to them, and work on
the axes of the source tensors; where the samples are is the affair of :mod:`converters._plates`.
"""

# Each enters its rules into the table.
from converters import _arithmetic, _functions, _layers, _recurrent  # noqa: F401
from converters._call import ODD, RULES, Call, Refused, Samples, Sizes, Value
from converters._moves import ALIASES, is_alias

__all__ = ["ALIASES", "ODD", "RULES", "Call", "Refused", "Samples", "Sizes", "Value", "is_alias"]
