"""The ATen table: what each operation of an exported PyTorch graph is in the vocabulary of :mod:`gbn.ops`.

A rule reads a :class:`Call` and adds vertices to the net; the last one gets the call's name.  Rules find arguments by
the names of the ATen schema, so positional and keyword forms are the same to them.
"""

from converters import _layers  # noqa: F401 - enters its rules into the table
from converters._arithmetic import ALIASES, PARTS, is_alias
from converters._call import FREE, RULES, Call, Ref, Refused, Shape

__all__ = ["ALIASES", "FREE", "PARTS", "RULES", "Call", "Ref", "Refused", "Shape", "is_alias"]
