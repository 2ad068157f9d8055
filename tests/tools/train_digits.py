"""Remakes ``digits_resnet8.onnx``: ``python tests/tools/train_digits.py OUT`` (``ptq[suite,tf]``; minutes on a CPU).

The network is MLPerf Tiny's ResNet8 for image classification (Banbury et al., "MLPerf Tiny Benchmark", 2021): three
stacks of 16, 32 and 64 channels, input (N, 32, 32, 3) float32 NHWC raw 0..255, softmax over 10 classes. It is trained
on the train split of `ptq.data.digits` for a fixed number of epochs; the test split is looked at once, at the end.

Every random number comes from `SEED`, TensorFlow is told to be deterministic: the same versions on the same kind of
CPU give the same file. Other versions or CPUs round differently, and give a model of about the same accuracy.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ptq.data import digits
from ptq.data.images import Images
from ptq.files import write_bytes
from ptq.models.convert import to_onnx

if TYPE_CHECKING:
    import keras

COMMAND = "python tests/tools/train_digits.py OUT"
SEED = 8
EPOCHS = 60
BATCH = 32
RATE = 1e-3
SHIFT = 3


def main(out: Path) -> None:
    """Train, convert, write to `out` and print what was measured."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    model = resnet8()
    _train(model, digits.read("train"))
    with tempfile.TemporaryDirectory() as folder:
        saved, converted = Path(folder) / "digits_resnet8.keras", Path(folder) / "digits_resnet8.onnx"
        model.save(saved)
        parity = to_onnx(saved, converted)
        content = _described(converted, keras.__version__, tf.__version__)
    write_bytes(out, content)
    test = digits.read("test")
    right = accuracy(content, test)
    print(f"{out}: {len(content)} bytes, {model.count_params()} parameters")
    print(f"top1 {right}/{len(test)} = {right / len(test):.4f} on digits test; {parity}")


def resnet8() -> keras.Model:
    """MLPerf Tiny's ResNet8, untrained: 78,666 parameters."""
    from keras import Model, initializers, layers, regularizers

    def conv(channels: int, size: int, stride: int, name: str) -> keras.Layer:
        return layers.Conv2D(
            channels,
            size,
            strides=stride,
            padding="same",
            kernel_initializer=initializers.HeNormal(),
            kernel_regularizer=regularizers.L2(1e-4),
            name=name,
        )

    inputs = layers.Input((32, 32, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(conv(16, 3, 1, "stem")(inputs)))
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        stack = f"stack{channels}"
        y = layers.ReLU()(layers.BatchNormalization()(conv(channels, 3, stride, f"{stack}_conv1")(x)))
        y = layers.BatchNormalization()(conv(channels, 3, 1, f"{stack}_conv2")(y))
        shortcut = x if stride == 1 else conv(channels, 1, stride, f"{stack}_shortcut")(x)
        x = layers.ReLU()(layers.Add()([shortcut, y]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    outputs = layers.Dense(10, activation="softmax", name="digit")(x)
    return Model(inputs, outputs, name="digits_resnet8")


def augmented(pixels: npt.NDArray[np.uint8], generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Each image shifted by up to `SHIFT` pixels both ways (black comes in) and dimmed to 70..100 %."""
    count, height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
    corners = generator.integers(0, 2 * SHIFT + 1, (count, 2))
    shifted = np.stack([padded[n, y : y + height, x : x + width] for n, (y, x) in enumerate(corners)])
    brightness = generator.uniform(0.7, 1.0, (count, 1, 1, 1))
    return (shifted * brightness).astype(np.float32)


def accuracy(content: bytes, images: Images) -> int:
    """How many images an ONNX model gets right."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: images.inputs})[0]
    return int((outputs.argmax(axis=1) == images.labels).sum())


def _train(model: keras.Model, train: Images) -> None:
    import keras

    steps = EPOCHS * -(-len(train) // BATCH)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    generator = np.random.default_rng(SEED)
    for epoch in range(EPOCHS):
        order = generator.permutation(len(train))
        inputs, labels = augmented(train.pixels[order], generator), train.labels[order]
        seen = model.fit(inputs, labels, batch_size=BATCH, shuffle=False, verbose=0).history
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {seen['loss'][0]:.4f}, accuracy {seen['accuracy'][0]:.4f}", flush=True)


def _described(path: Path, keras_version: str, tensorflow_version: str) -> bytes:
    """The model's bytes with where it comes from written into it."""
    import onnx

    model = onnx.load(path)
    model.doc_string = "ResNet8 (MLPerf Tiny) trained on scikit-learn's handwritten digits; input raw 0..255 NHWC RGB"
    origin = {
        "command": COMMAND,
        "seed": str(SEED),
        "epochs": str(EPOCHS),
        "keras": keras_version,
        "tensorflow": tensorflow_version,
    }
    onnx.helper.set_model_props(model, origin)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {COMMAND}")
    main(Path(sys.argv[1]))
