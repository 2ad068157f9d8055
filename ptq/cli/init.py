"""`ptq init`: the two files that judge a model: conftest.py and bars.toml."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ptq.api.model_file import converted, existing, name_of
from ptq.api.text import printable
from ptq.cli.options import MODEL, store, with_registry
from ptq.data.inputs import KINDS, read_inputs
from ptq.data.signature import Tensor
from ptq.engine.registry import Registry
from ptq.errors import PtqError
from ptq.files import write_text
from ptq.models.onnx_file import signature

CONFTEST = '''"""What ptq judges here. Next: pytest --pyargs ptq.suite -m accuracy"""

from pathlib import Path

import ptq
from ptq.data.inputs import read_inputs
from ptq.data.signature import Signature, Tensor

HERE = Path(__file__).parent
MODEL = HERE / {model!r}
# by the model; low= and high= hold values to a range, layout= names the axes of an image, constant= fills an input with
# a number (a sample rate, the 0 a state starts from) that the data then do not hold, or is None where they do,
# batch_axis= is where samples lie that do not lie along the first dimension
INPUTS = {{
{inputs}
}}
# TODO 1 of 2: where the inputs are, relative to this file: .npy, .npz (arrays by input name, and targets), a folder of
# .npz files or of images, or file.py:function. Calibration and evaluation share no sample.
CALIBRATION = {calibration!r}
EVALUATION = "TODO"


def pytest_ptq_workloads():
    if "TODO" in (CALIBRATION, EVALUATION):
        raise ptq.NoData("conftest.py: TODO 1 of 2: say where the data to calibrate and to evaluate on are")
    if left := [name for name, held in INPUTS.items() if held.constant == "TODO"]:
        raise ptq.NoData(f"conftest.py: input {{left[0]!r}}: constant= is TODO: a number, or None where data hold it")
    return [ptq.Workload({name!r}, MODEL, lambda: read(CALIBRATION, "train"), lambda: read(EVALUATION, "test"), INPUTS)]


def read(inputs, split):
    given = {{name: held.bound for name, held in INPUTS.items() if held.constant is None}}
    takes = Signature(tuple(Tensor(name, held.shape, held.dtype) for name, held in given.items()), ())
    return read_inputs(HERE / inputs, signature=takes, split=split)
'''
BARS = """# TODO 2 of 2: how good is good enough, and why; see "bars" in the README for more than max_drop
["{name}-*"]
max_drop = "TODO 2 of 2: the largest loss against the float model, in percentage points or the metric's unit"
why = "TODO 2 of 2: where that number comes from"
"""


@click.command(epilog="Example: ptq init model.onnx --data train.npz")
@click.argument("model", type=MODEL)
@click.option("--data", metavar="X", help=f"What to calibrate on: {KINDS}; else a TODO says so.")
@with_registry
def COMMAND(registry: Registry, model: Path, data: str | None) -> None:
    """Write conftest.py and bars.toml for MODEL.

    Both go to this folder; nothing is overwritten.
    What only a person can decide is left as TODO: where the data are, and how good is good enough.
    """
    conftest, bars = Path("conftest.py"), Path("bars.toml")
    for path in (conftest, bars, Path("tests/bars.toml")):
        if path.exists() or path.is_symlink():
            raise PtqError(f"{path}: is there already, and is not overwritten: move it, or run ptq init elsewhere")
    takes = signature(converted(existing(model), store(), registry))
    first = next((each.shape[0] for each in takes.inputs if each.shape), None)
    held = "\n".join(f"    {each.name!r}: {_contract(each, first)}," for each in takes.inputs)
    if data is not None:
        read_inputs(data, signature=None if "TODO" in held else takes)
    name = name_of(model)
    text = CONFTEST.format(model=os.path.relpath(model), inputs=held, calibration=data or "TODO", name=name)
    write_text(conftest, text)
    write_text(bars, BARS.format(name=name))
    click.echo(printable(f"wrote {conftest} and {bars}, for {model.name}: {', '.join(map(str, takes.inputs))}"))
    click.echo("fill in the TODOs in both, then: pytest --pyargs ptq.suite -m accuracy")


def _contract(takes: Tensor, first: int | None) -> str:
    """The contract of an input; of a number and of a state, which has its samples elsewhere, `constant=` is asked."""
    known = f"ptq.InputContract({takes.shape}, dtype={takes.dtype!r}"
    if not takes.shape:
        return f'{known}, constant="TODO")'
    if takes.shape[0] == first or first not in takes.shape:
        return f"{known})"
    return f'{known}, batch_axis={takes.shape.index(first)}, constant="TODO")'
