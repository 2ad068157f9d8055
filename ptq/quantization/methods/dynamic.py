"""dynamic: every activation gets its range at run time, of each batch anew."""

from __future__ import annotations

from ptq.quantization.method import Method
from ptq.quantization.methods.minmax import minmax

METHOD = Method("dynamic", minmax, needs=frozenset(), dynamic=True, listed=False)
