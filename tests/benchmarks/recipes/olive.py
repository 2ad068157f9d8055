"""Microsoft Olive: its pass `OnnxStaticQuantization`, QDQ, run by onnxruntime. It drives onnxruntime's quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

REQUIRES = ("olive-ai", "onnxruntime")
DTYPE = "u8s8"


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """MinMax and a weight scale a tensor."""
    _quantize(model, inputs, out, calibrate_method="MinMax", per_channel=False)


def best(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """Percentile and a weight scale a channel."""
    _quantize(model, inputs, out, calibrate_method="Percentile", per_channel=True)


def _quantize(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path, **options: Any) -> None:
    from olive.data.config import DataComponentConfig, DataConfig
    from olive.data.registry import Registry
    from olive.hardware import DEFAULT_CPU_ACCELERATOR
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict
    from olive.passes.onnx.quantization import OnnxStaticQuantization

    class Images:
        def __len__(self) -> int:
            return len(next(iter(inputs.values())))

        def __getitem__(self, index: int) -> tuple[dict[str, npt.NDArray[np.float32]], int]:
            return {name: part[index] for name, part in inputs.items()}, 0

    @Registry.register_dataset()
    def images(data_dir: str | None = None, **_: Any) -> Images:
        return Images()

    data = DataConfig(name="images", type="DataContainer", load_dataset_config=DataComponentConfig(type="images"))
    settings = {
        "data_config": data, "quant_format": "QDQ", "activation_type": "uint8", "precision": "int8",
        "quant_preprocess": True, **options,
    }  # fmt: skip
    quantizer = create_pass_from_dict(OnnxStaticQuantization, settings, True, DEFAULT_CPU_ACCELERATOR)
    made = quantizer.run(ONNXModelHandler(str(model)), str(out.with_suffix("")))
    out.write_bytes(Path(made.model_path).read_bytes())
