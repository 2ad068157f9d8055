"""The proof that a case that claims int8 has int8 weights: conversions that change nothing say nothing."""

from __future__ import annotations

from ptq.backends.protocol import Census
from ptq.cases import Case
from ptq.errors import Unsupported


def require_int8(case: Case, census: Census) -> None:
    """Raise `Unsupported` unless the artifact of `case` has int8 weights.

    Frameworks convert nothing, or all but the convolutions, without a word, and the "quantized" model then has
    float accuracy. `simulated` execution passes: it is reported as such.
    """
    if census.weight_bytes.get("int8", 0) > 0:
        return
    left = f"{len(census.float_nodes)} compute nodes stay in float" if census.float_nodes else "nothing was quantized"
    raise Unsupported(
        f"{case.id}: the conversion gave no int8 weight ({left}), but should give one a convolution; "
        "likely cause: a dtype or a graph the framework's quantizer skips without an error"
    )
