"""What the networks are calibrated with and compared on: photos for classifiers, English prose for the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
# one array for each input of a network
Inputs = tuple[Array, ...]

SHORTEST, PARAGRAPHS = 240, 50


@dataclass(frozen=True)
class Samples:
    """Inputs of a network, and the labels of those that have one."""

    inputs: list[Inputs]
    labels: list[int] | None


def photo_samples(folder: Path) -> Samples:
    """The demo's photos."""
    from lpir.demo.photos import photos

    found = photos()
    return Samples([(p.input(),) for p in found], [p.label for p in found])


def prose_samples(folder: Path) -> Samples:
    """Paragraphs of Python's language reference as tokens, padded to the encoder's length; kept in `folder`."""
    kept = folder / "minilm_tokens.npy"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(kept, tokenize(paragraphs()))
    tokens = np.load(kept)
    return Samples([tuple(np.ascontiguousarray(row[None]) for row in sample) for sample in tokens], None)


def paragraphs() -> list[str]:
    """A long paragraph of each topic that Python's `help` knows."""
    from pydoc_data.topics import topics

    found = []
    for _, text in sorted(topics.items()):
        blocks = (" ".join(block.split()) for block in text.split("\n\n"))
        found += [b for b in blocks if len(b) >= SHORTEST and b[0].isupper()][:1]
    return found[:PARAGRAPHS]


def tokenize(texts: list[str]) -> Array:
    """int64 [texts, 3, TOKENS]: ids, mask and types of each, cut or padded."""
    from tokenizers import Tokenizer

    from benchmarks.minilm import PACKAGE, TOKENS
    from lpir.demo.packages import file_of

    tokenizer = Tokenizer.from_file(str(file_of(PACKAGE, "model/tokenizer.json")))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    coded = tokenizer.encode_batch(texts)
    return np.array([[c.ids, c.attention_mask, c.type_ids] for c in coded], np.int64)


def photo_answer(output: Array, inputs: Inputs) -> Array:
    """What of an output counts: all logits."""
    return output


def sentence_embedding(output: Array, inputs: Inputs) -> Array:
    """The mean of the hidden states of the tokens that are no padding."""
    mask = inputs[1].astype(np.float32)[..., None]
    return np.asarray((output * mask).sum(1) / mask.sum(1))
