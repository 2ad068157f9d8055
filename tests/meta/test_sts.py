"""Sentence pairs: how they are read, how embeddings of them are scored, and the workload made of them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ptq.cases import FP32, NONE, Case
from ptq.data.samples import ArraySamples
from ptq.data.sentences import INPUTS, Pair, read_pairs, tokenize
from ptq.engine.pipeline import Pipeline
from ptq.engine.store import Store
from ptq.errors import BadData, NoData, NotInstalled
from ptq.metrics.metric import Metric
from ptq.metrics.similarity import Similarity
from ptq.workloads.sts import WORKLOAD

PAIRS = 200


def pairs(targets: np.ndarray | None = None) -> ArraySamples:
    truth = np.repeat(np.random.default_rng(0).integers(0, 11, PAIRS) / 2, 2)
    return ArraySamples(np.zeros((2 * PAIRS, 1)), truth if targets is None else targets)


def embeddings(noise: float, seed: int = 1) -> dict[str, np.ndarray]:
    """Pairs whose cosine goes with the similarity, but for noise."""
    random, truth = np.random.default_rng(seed), pairs().targets[::2] / 5
    first = random.normal(size=(PAIRS, 32))
    second = truth[:, None] * first + (1 - truth[:, None]) * random.normal(size=first.shape)
    both = np.stack([first, second], axis=1).reshape(2 * PAIRS, 32)
    return {"embedding": (both + noise * np.random.default_rng(7).normal(size=both.shape)).astype(np.float32)}


def test_it_is_spearmans_rho_of_the_cosines() -> None:
    stats = pytest.importorskip("scipy.stats")
    said = embeddings(0.5)["embedding"].astype(np.float64)
    one, other = said[::2], said[1::2]
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    score = Similarity().score(embeddings(0.5), pairs())
    assert score.value == pytest.approx(stats.spearmanr(cosines, pairs().targets[::2]).statistic, abs=1e-12)
    assert score.n == PAIRS
    assert score.outcomes == pytest.approx(cosines)


def test_a_worse_model_has_a_drop_whose_interval_is_paired() -> None:
    metric = Similarity()
    fp32, near, far = embeddings(0.0), embeddings(0.05), embeddings(1.0)
    same = metric.drop(fp32, fp32, pairs(), 0.95)
    assert (same.drop, same.low, same.high) == (0, 0, 0)
    close, wide = metric.drop(near, fp32, pairs(), 0.95), metric.drop(far, fp32, pairs(), 0.95)
    assert wide.low > 0.05
    assert close.low <= close.drop <= close.high
    assert close.high - close.low < 0.02, "paired: what both models have in common cancels"
    assert metric.drop(far, fp32, pairs(), 0.95) == wide, "drawn by its own seed"


def test_the_mean_cosine_with_the_float_model() -> None:
    fp32 = embeddings(0.0)
    assert Metric().cosine(fp32, fp32) == pytest.approx(1)
    assert Metric().cosine({"embedding": -fp32["embedding"]}, fp32) == pytest.approx(-1)
    assert 0.5 < (Metric().cosine(embeddings(0.5), fp32) or 0) < 0.99
    assert Metric().cosine({"embedding": fp32["embedding"] * 0}, fp32) == 0
    assert Metric().cosine({"embedding": fp32["embedding"][:, 1:]}, fp32) is None


@pytest.mark.parametrize(
    ("samples", "said", "told"),
    [
        (pairs(np.arange(2 * PAIRS)), embeddings(0), "samples 0 and 1 have the targets 0 and 1, but should have one"),
        (ArraySamples(np.zeros((3, 1)), np.ones(3)), embeddings(0), "an even number"),
        (ArraySamples(np.zeros((2 * PAIRS, 1))), embeddings(0), r"targets have shape \(0,\)"),
        (pairs(np.ones(2 * PAIRS)), embeddings(0), "the similarities of all 200 pairs are 1, but should differ"),
        (pairs(), {"embedding": np.ones((2 * PAIRS, 4), np.float32)}, "the cosines of all 200 pairs are 1, but"),
        (pairs(), {"embedding": np.ones((2 * PAIRS, 4, 4), np.float32)}, "an embedding a sentence"),
    ],
)
def test_what_is_no_pair_is_told_in_one_line(samples: ArraySamples, said: dict[str, np.ndarray], told: str) -> None:
    with pytest.raises(BadData, match=told):
        Similarity().score(said, samples)


@pytest.mark.parametrize("line", ["3.2\tone", "6\tone\ttwo", "x\tone\ttwo", "nan\tone\ttwo", "1\ta\tb\tc"])
def test_a_line_that_is_no_pair_is_told_with_its_number(line: str, tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text(f'0.5\ta "quoted" one\ttwo\r\n\n{line}\n')
    with pytest.raises(BadData, match=r"p\.tsv:3: .* but should be a score in 0\.\.5"):
        read_pairs(tmp_path / "p.tsv")


def test_pairs_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text('0.5\ta "quoted" one\ttwo\r\n5\tdé\te\n', encoding="utf-8")
    assert read_pairs(tmp_path / "p.tsv") == [Pair(0.5, 'a "quoted" one', "two"), Pair(5.0, "dé", "e")]
    with pytest.raises(NoData, match="no such file"):
        read_pairs(tmp_path / "absent.tsv")


def tokenizer(path: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers", reason="pip install 'ptq[text]'")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_padding(length=9)
    made.save(str(path))
    return path


def test_tokens_are_cut_and_never_padded(tmp_path: Path) -> None:
    found = tokenize(tokenizer(tmp_path / "t.json"), ["a b", "b", "a b a b a b"], 4)
    assert tuple(found) == INPUTS
    assert [each.tolist() for each in found["input_ids"]] == [[1, 2], [2], [1, 2, 1, 2]]
    assert [each.tolist() for each in found["attention_mask"]] == [[1, 1], [1], [1, 1, 1, 1]]
    assert {each.dtype for each in found["token_type_ids"]} == {np.dtype(np.int64)}
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(BadData, match=r"bad\.json: cannot be read as a tokenizer"):
        tokenize(tmp_path / "bad.json", ["a"], 4)
    with pytest.raises(NoData, match=r"tokenizer\.json that comes with the model"):
        tokenize(tmp_path / "absent.json", ["a"], 4)


def test_without_the_library_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(NotInstalled, match=r"pip install 'ptq\[text\]'"):
        tokenize(tmp_path / "t.json", ["a"], 4)


def test_calibration_has_no_sentence_of_val(tmp_path: Path) -> None:
    (tmp_path / "sts2015").mkdir()
    (tmp_path / "sts2015/train.tsv").write_text("1\ta b\tb\n2\tA  B a\tb b\n3\ta\tb\n")
    (tmp_path / "sts2015/val.tsv").write_text("4\ta b a\tB\n5\tb a\ta a\n")
    tokenizer(tmp_path / "all_minilm_l6_v2.tokenizer.json")
    workload = WORKLOAD(tmp_path)
    drawn, judged = workload.calibration(), workload.evaluation()  # type: ignore[operator]
    assert sorted(each.tolist() for each in drawn.inputs["input_ids"]) == [[1], [1, 2], [2, 2]]
    assert judged.targets.tolist() == [4, 4, 5, 5]
    assert [each.tolist() for each in judged.inputs["input_ids"]] == [[1, 2, 1], [0], [2, 1], [1, 1]]


def test_absent_data_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(NoData, match="all-MiniLM-L6-v2"):
        WORKLOAD(tmp_path).model()  # type: ignore[operator]
    with pytest.raises(NoData, match="--ptq-data"):
        WORKLOAD(None).evaluation()  # type: ignore[operator]


def test_the_grid_is_small(tmp_path: Path) -> None:
    cases = Pipeline(WORKLOAD(None), Store(tmp_path)).cases()
    own = [case for case in cases if case.backend == "onnxruntime" and not case.is_float]
    assert len(own) == 8
    assert Case("sts", "onnxruntime", "u8s7", "dynamic_smooth_gptq", "channel") in own
    assert {case.exclude for case in own if case.method.startswith("dynamic")} == {NONE}
    assert {case.dtype for case in cases if case.backend != "onnxruntime"} <= {FP32, "u8s8"}
