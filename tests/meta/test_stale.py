"""No cached result outlives the code and the settings it was made with: what was green by the cache is red."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

CONFTEST = """
import numpy as np
import ptq
{extra}

def pytest_ptq_workloads():
    x, y = np.load("images.npy"), np.load("labels.npy")
    return [ptq.Workload("mine", "model.onnx", {samples}(x[:90], y[:90]), {samples}(x[90:], y[90:]), metric={metric},
                         include=lambda case: case.backend == "onnxruntime" and case.dtype in ("fp32", "uint8")
                         and case.exclude == "none" and case.granularity == "tensor" and case.method in {methods})]
"""
METRIC = """
class Mine(ptq.Top1):
    def score(self, predictions, samples):
        found = super().score(predictions, samples)
        return ptq.Score({factor} * found.value, found.n, None, {{}}, found.outcomes)
"""
COLLECT = """
class Mine(ptq.Top1):
    def collect(self, outputs, samples):
        kept = super().collect(outputs, samples)
        return {{"outputs": {kept}}}
"""
SAMPLES = """
class Files:
    '''Samples whose digest is of what they are read from, as that of image files is.'''
    seed, class_names, order = None, (), None
    def __init__(self, x, y):
        self.x, self.targets = x, y
        self.digest = ptq.ArraySamples(x, y).digest
    def __len__(self):
        return len(self.x)
    def batches(self, size):
        for start in range(0, len(self), size):
            yield self.decode(self.x[start:start + size])
    def hashes(self):
        return ptq.ArraySamples(self.x).hashes()
    def decode(self, batch):
        return {decoded}
"""
METHOD = """
def choose(statistics, quantizer):
    return {share} * min(0, statistics.min), {share} * max(0, statistics.max)

def pytest_ptq_methods():
    return [ptq.Method("mine", choose, needs={{"extremes"}})]
"""

Write = Callable[..., None]


@pytest.fixture
def write(repository: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes conftest.py; the run is a process of its own each time, on one cache."""
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "cache"))

    def written(
        extra: str, metric: str = "None", samples: str = "ptq.ArraySamples", methods: object = ("none", "minmax")
    ) -> None:
        text = CONFTEST.format(extra=extra, metric=metric, samples=samples, methods=methods)
        (repository.path / "conftest.py").write_text(text)

    return written


def outcomes(repository: pytest.Pytester, *arguments: str) -> dict[str, int]:
    result = repository.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider", *arguments)
    return {name: number for name, number in result.parseoutcomes().items() if name in ("passed", "failed")}


def test_a_metric_whose_score_changes(repository: pytest.Pytester, write: Write) -> None:
    write(METRIC.format(factor=1.0), metric="Mine()")
    assert outcomes(repository) == {"passed": 2}
    write(METRIC.format(factor=0.5), metric="Mine()")
    assert outcomes(repository) == {"failed": 2}


def test_a_metric_whose_settings_change(repository: pytest.Pytester, write: Write) -> None:
    text = "import dataclasses\n@dataclasses.dataclass(frozen=True)\n" + METRIC.strip().replace(
        "{factor}", "self.factor"
    )
    text = text.replace("    def score", "    factor: float = 1.0\n    def score").replace("{{}}", "{}")
    write(text, metric="Mine(factor=1.0)")
    assert outcomes(repository) == {"passed": 2}
    write(text, metric="Mine(factor=0.5)")
    assert outcomes(repository) == {"failed": 2}


def test_a_metric_whose_collect_changes(repository: pytest.Pytester, write: Write) -> None:
    write(COLLECT.format(kept='kept["outputs"]'), metric="Mine()")
    assert outcomes(repository) == {"passed": 2}
    write(COLLECT.format(kept='-kept["outputs"]'), metric="Mine()")
    assert outcomes(repository) == {"failed": 2}


def test_samples_whose_decoding_changes(repository: pytest.Pytester, write: Write) -> None:
    write(SAMPLES.format(decoded="batch"), samples="Files")
    assert outcomes(repository) == {"passed": 2}
    write(SAMPLES.format(decoded="batch[:, ::-1].copy()"), samples="Files")
    assert outcomes(repository) == {"failed": 2}


def test_a_method_from_outside_that_changes(repository: pytest.Pytester, write: Write) -> None:
    write(METHOD.format(share=1.0), methods=("none", "mine"))
    assert outcomes(repository) == {"passed": 2}
    write(METHOD.format(share=0.01), methods=("none", "mine"))
    assert outcomes(repository) == {"passed": 1, "failed": 1}


def test_data_divided_by_255_is_red_with_the_cause_whatever_the_bars_say(
    repository: pytest.Pytester, write: Write
) -> None:
    (repository.path / "bars.toml").write_text('["mine-*"]\nmax_drop = 5.0\nwhy = "all defaults"\n')
    write("")
    assert outcomes(repository) == {"passed": 2}
    x = np.load(repository.path / "images.npy")
    np.save(repository.path / "images.npy", x / np.float32(255))
    result = repository.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider")
    assert result.parseoutcomes()["failed"] == 2
    result.stdout.fnmatch_lines(["*float model*divided by 255*"])
