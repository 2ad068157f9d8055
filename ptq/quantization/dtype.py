"""Dtype: the integers a case's activations and weights become. One name means the same in every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ptq.quantization.quantizer import Quantizer


@dataclass(frozen=True)
class Integer:
    """An integer type of `bits` bits."""

    bits: int
    signed: bool

    def __str__(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.bits}"

    @property
    def numpy(self) -> str:
        """numpy's and ONNX's name of what holds it, e.g. ``int8``, also for seven bits, or ``uint4``."""
        return f"{'' if self.signed else 'u'}int{8 if self.bits == 7 else self.bits}"

    @property
    def quantizer(self) -> Quantizer:
        """The asymmetric grid of an activation."""
        return Quantizer(bits=self.bits, signed=self.signed)

    @property
    def weight_quantizer(self) -> Quantizer:
        """The grid of a weight: symmetric when signed."""
        return Quantizer(bits=self.bits, signed=self.signed, symmetric=self.signed)


@dataclass(frozen=True)
class Dtype:
    """What a case's activations and weights are made of; `edge`, where given, the first and the last layers'."""

    activation: Integer
    weight: Integer
    edge: Dtype | None = None

    @property
    def quantizer(self) -> Quantizer:
        """The grid of an activation: asymmetric, as ONNX Runtime's and TFLite's static quantization have it."""
        return self.activation.quantizer

    @property
    def weight_quantizer(self) -> Quantizer:
        """The grid of a weight: symmetric when signed."""
        return self.weight.weight_quantizer


_S4, _S7, _S8, _S16 = (Integer(bits, signed=True) for bits in (4, 7, 8, 16))
_U4, _U8, _U16 = (Integer(bits, signed=False) for bits in (4, 8, 16))

_U8S8 = Dtype(_U8, _S8)

DTYPES: Mapping[str, Dtype] = {
    "int8": Dtype(_S8, _S8),
    "uint8": Dtype(_U8, _U8),
    "u8s8": _U8S8,
    "u8s7": Dtype(_U8, _S7),
    "u16s8": Dtype(_U16, _S8),
    "s16s8": Dtype(_S16, _S8),
    "u8s4": Dtype(_U8, _S4),
    "u8s4_edge8": Dtype(_U8, _S4, _U8S8),
    "u4s4": Dtype(_U4, _S4),
    "u4s4_edge8": Dtype(_U4, _S4, _U8S8),
}
"""By name, (activation, weight): the names a case's `dtype` may have beside ``fp32``. With ``_edge8`` the first and the
last layers have 8 bits, see `ptq.quantization.edges`. ``u8s7`` runs on the kernels of ``u8s8``, and is right on a CPU
without VNNI too: a sum of two products with 7 bits fits in the 16 these add up in."""
