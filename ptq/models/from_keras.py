"""A Keras model (.h5, .keras) as ONNX, through tf2onnx. Runs in TensorFlow's process, see `ptq.models.convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptq.models.keras_file import load_keras
from ptq.models.original import Original, of_function


def read(source: Path) -> Original:
    """The model as ONNX under Keras's own names; layout and dtypes stay, the batch varies.

    Conv and BatchNormalization are left as tf2onnx leaves them: Conv, Mul, Add. Raises `BadModel` when the file is not
    a Keras model, names code to run, or cannot be converted.
    """
    import keras
    import tensorflow as tf

    model = load_keras(source)
    inputs = [tf.TensorSpec((None, *given.shape[1:]), given.dtype, name=given.name) for given in model.inputs]
    # two outputs of one layer have one name
    names = [
        name if model.output_names.count(name) == 1 else f"{name}_{at}" for at, name in enumerate(model.output_names)
    ]

    def call(*given: Any) -> dict[str, Any]:
        said = model(given[0] if len(given) == 1 else list(given), training=False)
        return dict(zip(names, keras.tree.flatten(said), strict=True))

    original = of_function(source, "Keras", call, inputs)
    original.onnx.graph.doc_string = f"converted from {model.name}"
    return original
