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
        """numpy's and ONNX's name, e.g. ``int8`` or ``uint4``."""
        return f"{'' if self.signed else 'u'}int{self.bits}"


@dataclass(frozen=True)
class Dtype:
    """What a case's activations and weights are made of."""

    activation: Integer
    weight: Integer

    @property
    def quantizer(self) -> Quantizer:
        """The grid of an activation: asymmetric, as ONNX Runtime's and TFLite's static quantization have it."""
        return Quantizer(bits=self.activation.bits, signed=self.activation.signed)

    @property
    def weight_quantizer(self) -> Quantizer:
        """The grid of a weight: symmetric when signed."""
        return Quantizer(bits=self.weight.bits, signed=self.weight.signed, symmetric=self.weight.signed)


_S4, _S8, _U4, _U8, _U16 = Integer(4, True), Integer(8, True), Integer(4, False), Integer(8, False), Integer(16, False)

DTYPES: Mapping[str, Dtype] = {
    "int8": Dtype(_S8, _S8),
    "uint8": Dtype(_U8, _U8),
    "u8s8": Dtype(_U8, _S8),
    "u16s8": Dtype(_U16, _S8),
    "u8s4": Dtype(_U8, _S4),
    "u4s4": Dtype(_U4, _S4),
}
"""By name, (activation, weight): the names a case's `dtype` may have beside ``fp32``."""
