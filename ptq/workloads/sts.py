"""sts: the sentence encoder all-MiniLM-L6-v2 on pairs of sentences whose similarity people judged (SemEval STS)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ptq.cases import NONE, Case
from ptq.data.contract import InputContract
from ptq.data.reader import Reader
from ptq.data.samples import ArraySamples
from ptq.data.sentences import Pair, read_pairs, tokenize
from ptq.engine.workload import Workload
from ptq.errors import NoData
from ptq.metrics.similarity import Similarity

ONNX, TOKENIZER, TRAIN, VAL = (
    *("all_minilm_l6_v2.onnx", "all_minilm_l6_v2.tokenizer.json"),
    *("sts2015/train.tsv", "sts2015/val.tsv"),
)
WORDS = 30522
"""Tokens the encoder knows."""
MOST = 128
"""Tokens of a sentence; what comes after them is cut off."""
COUNT, SEED = 400, 42
_GRID = {
    *(("u8s8", "dynamic", "tensor"), ("u8s8", "dynamic", "channel"), ("uint8", "dynamic", "channel")),
    *((dtype, "dynamic_smooth_gptq", "channel") for dtype in ("uint8", "u8s8", "u8s7")),
    *(("uint8", "minmax", "channel"), ("uint8", "mse_gptq", "channel")),
}
"""(dtype, method, granularity) of onnxruntime's cases: its own dynamic quantization, the recipe that keeps most, and
static quantization of every layer."""


def WORKLOAD(data: Path | None) -> Workload:
    """Calibrated on 400 sentences of train, seed 42, no score used; evaluated on both sentences of the pairs of val."""
    shape = (None, None)
    return Workload(
        name="sts",
        model=partial(_found, data, ONNX),
        calibration=Reader(partial(_calibration, data), partial(_files, data)),
        evaluation=Reader(partial(_evaluation, data), partial(_files, data)),
        contract={
            "input_ids": InputContract(shape, low=0, high=WORDS - 1, dtype="int64"),
            "attention_mask": InputContract(shape, low=0, high=1, dtype="int64"),
            "token_type_ids": InputContract(shape, low=0, dtype="int64"),
        },
        metric=Similarity(),
        include=_include,
        methods=("dynamic", "dynamic_smooth_gptq"),
        as_evaluated=Reader(partial(_as_evaluated, data), partial(_files, data)),
    )


def _include(case: Case) -> bool:
    """A small grid: the float model in every runtime, and `_GRID`; torch says of one case why it has none."""
    if case.backend != "onnxruntime" or case.is_float:
        return case.is_float or (case.backend, case.dtype, case.method) == ("torch", "u8s8", "default")
    static = case.method in ("minmax", "mse_gptq")
    return (case.exclude != NONE) is static and (case.dtype, case.method, case.granularity) in _GRID


def _calibration(data: Path | None) -> ArraySamples:
    chosen = _drawn(data)
    return ArraySamples(tokenize(_found(data, TOKENIZER), chosen, MOST), seed=SEED, name="sts: train")


def _evaluation(data: Path | None) -> ArraySamples:
    return _samples(data, read_pairs(_found(data, VAL)), "sts: val")


def _as_evaluated(data: Path | None) -> ArraySamples:
    return _samples(data, read_pairs(_found(data, TRAIN)), "sts: train")


def _samples(data: Path | None, pairs: list[Pair], name: str) -> ArraySamples:
    """Both sentences of every pair, one after the other, each with the pair's score."""
    sentences = [sentence for pair in pairs for sentence in (pair.first, pair.second)]
    scores = np.repeat(np.array([pair.similarity for pair in pairs], np.float32), 2)
    return ArraySamples(tokenize(_found(data, TOKENIZER), sentences, MOST), scores, name=name)


def _drawn(data: Path | None) -> list[str]:
    """Different sentences of train; val has some of them too, written alike or not, and those are left out."""
    train, val = ({_same(each): each for each in _sentences(_found(data, name))} for name in (TRAIN, VAL))
    rest = sorted(each for key, each in train.items() if key not in val)
    order = np.random.default_rng(SEED).permutation(len(rest))[:COUNT]
    return [rest[index] for index in order]


def _sentences(path: Path) -> list[str]:
    return [sentence for pair in read_pairs(path) for sentence in (pair.first, pair.second)]


def _same(sentence: str) -> str:
    """What sentences have in common that tokens do not tell apart."""
    return " ".join(sentence.lower().split())


def _files(data: Path | None) -> list[Path]:
    return [_found(data, name) for name in (TOKENIZER, TRAIN, VAL)]


def _found(data: Path | None, name: str) -> Path:
    if data is None:
        raise NoData("no data: name the folder that holds sts2015/ and models/ with --ptq-data DIR or PTQ_DATA=DIR")
    for each in (data / "models" / name, data / name):
        if each.is_file():
            return each
    raise NoData(
        f"sts: no {name} in {data} or its models/; the encoder is sentence-transformers' all-MiniLM-L6-v2, exported "
        "with its pooling, the pairs are SemEval's STS 2012 to 2015"
    )
