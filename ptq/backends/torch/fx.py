"""PyTorch, FX graph mode quantization (torch.ao.quantization: deprecated, in torch 2.13 to 2.15 as it ever was)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ptq.backends.protocol import Census
from ptq.backends.torch.backend import DEFAULT, Runnable, TorchBackend
from ptq.backends.torch.census import census, parts
from ptq.backends.torch.file import Qparams
from ptq.backends.torch.from_onnx import TorchGraph
from ptq.backends.torch.observers import fix, observers
from ptq.backends.torch.runtime import quantized_tensors
from ptq.cases import Case

if TYPE_CHECKING:
    import torch


class Torch(TorchBackend):
    """ONNX -> onnx2torch -> prepare_fx -> convert_fx, run by fbgemm's and oneDNN's integer kernels.

    torch's words for u8s8 are quint8 activations with qint8 weights: it has no kernels for another pair. `reduce_range`
    is off but for method ``default``, torch's own configuration: exact on CPUs with VNNI, and better in every pair.
    """

    name = "torch"
    kind = "fx"
    ending = ".pt"
    no_uint8 = "torch: Weight observer must have a dtype of qint8, got torch.quint8"
    engine = "x86"
    defaults = ((DEFAULT, "channel"),)

    def prepare(
        self, graph: TorchGraph, method: str, granularity: str, example: tuple[Any, ...]
    ) -> torch.fx.GraphModule:
        from torch.ao.quantization.quantize_fx import prepare_fx

        quantized_tensors()
        prepared: torch.fx.GraphModule = prepare_fx(graph.module, self.configuration(method, granularity), example)
        return prepared

    def configuration(self, method: str, granularity: str) -> Any:
        """torch's QConfigMapping: quint8 activations, symmetric qint8 weights, what operators fix as they fix it."""
        import torch
        from torch.ao.quantization import (
            HistogramObserver,
            MinMaxObserver,
            PerChannelMinMaxObserver,
            QConfig,
            get_default_qconfig_mapping,
        )

        mapping = get_default_qconfig_mapping(self.engine)
        if method == DEFAULT:
            return mapping
        observer = HistogramObserver if method == "histogram" else MinMaxObserver
        activation = observer.with_args(dtype=torch.quint8, qscheme=torch.per_tensor_affine, reduce_range=False)
        weight = (
            PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
            if granularity == "channel"
            else MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
        )
        chosen = QConfig(activation=activation, weight=weight)
        mapping.set_global(chosen)
        for kind, config in list(mapping.object_type_qconfigs.items()):
            if config is not None and not self.keeps(config.activation()):
                mapping.set_object_type(kind, chosen)
        return mapping

    def keeps(self, observer: Any) -> bool:
        return type(observer).__name__.startswith("FixedQParams")  # as softmax's 1/256

    def convert(self, prepared: torch.fx.GraphModule, granularity: str, qparams: Qparams) -> torch.fx.GraphModule:
        from torch.ao.quantization import FixedQParamsObserver
        from torch.ao.quantization.quantize_fx import convert_fx

        fix(prepared, observers(prepared, self.keeps), qparams, FixedQParamsObserver)
        converted: torch.fx.GraphModule = convert_fx(prepared)
        return converted

    def runnable(self, converted: torch.fx.GraphModule, graph: TorchGraph, example: tuple[Any, ...]) -> Runnable:
        return Runnable(converted, graph.signature, graph.nodes, graph.signature.batch, example)

    def state(self, converted: torch.fx.GraphModule) -> dict[str, Any]:
        state: dict[str, Any] = converted.state_dict()
        return state

    def count(self, runnable: Runnable) -> Census:
        return census(runnable.module, runnable.nodes, runnable.example)

    def notes(self, case: Case, runnable: Runnable) -> dict[str, str]:
        return {
            "activations": "quint8 per tensor",
            "weights": f"qint8 per {case.granularity}",
            "engine": str(self.engine),
            "reduce_range": str(case.method == DEFAULT),
        }

    def parts(self, runnable: Runnable) -> Iterator[tuple[str, str, str]]:
        return parts(runnable.module, runnable.nodes)


BACKEND = Torch()
