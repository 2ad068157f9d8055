"""Sentences: pairs of them with a judged similarity, and their tokens as a sentence encoder takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptq.data.batch import Array
from ptq.data.content import read_bytes
from ptq.errors import BadData, NoData, NotInstalled, one_line

LARGEST = 256 << 20
"""Bytes of a file of pairs, and of a tokenizer."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What an encoder of BERT's family takes, each int64 of shape (n, length)."""


@dataclass(frozen=True)
class Pair:
    """Two sentences, and how similar people found them, 0..5."""

    similarity: float
    first: str
    second: str


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a .tsv: a line each of score, sentence, sentence, with tabs between them, UTF-8.

    Raises `NoData` when the file is absent, `BadData` for a line that is none of these or a score outside 0..5.
    """
    try:
        lines = read_bytes(path, LARGEST).decode("utf-8").split("\n")
    except FileNotFoundError:
        raise NoData(f"{path}: no such file; get it from SemEval's semantic textual similarity (STS)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{path}: cannot be read as text ({one_line(error)})") from error
    return [_pair(line.removesuffix("\r"), f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def tokenize(tokenizer: Path, sentences: Sequence[str], most: int) -> dict[str, list[Array]]:
    """Each of `INPUTS` by name, an int64 array of shape (length,) a sentence; at most `most` tokens, never padded.

    `tokenizer` is a tokenizer.json as the library `tokenizers` reads it. Raises `NoData` when it is absent, `BadData`
    when it is not one, `NotInstalled` where the library is not.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise NotInstalled("not installed: tokenizers; pip install 'ptq[text]'") from error
    try:
        content = read_bytes(tokenizer, LARGEST)
    except FileNotFoundError:
        raise NoData(f"{tokenizer}: no such file, but should be the tokenizer.json that comes with the model") from None
    try:
        made: Any = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises plain exceptions
        raise BadData(f"{tokenizer}: cannot be read as a tokenizer ({one_line(error)})") from error
    made.no_padding()  # samples of one length are run together: padding would be one more thing that can be wrong
    made.enable_truncation(most)
    found: dict[str, list[Array]] = {name: [] for name in INPUTS}
    for sentence in sentences:
        tokens = made.encode(sentence)
        for name, values in zip(INPUTS, (tokens.ids, tokens.attention_mask, tokens.type_ids), strict=True):
            found[name].append(np.array(values, np.int64))
    return found


def _pair(line: str, where: str) -> Pair:
    fields = line.split("\t")
    try:
        similarity = float(fields[0])
    except ValueError:
        similarity = math.nan
    if len(fields) != 3 or not 0 <= similarity <= 5:
        raise BadData(f"{where}: {line!r:.60}, but should be a score in 0..5, a sentence and a sentence, tabs between")
    return Pair(similarity, fields[1], fields[2])
