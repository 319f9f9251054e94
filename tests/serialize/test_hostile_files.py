"""Damaged files, made by chance from a good one, never raise anything but lpir's own errors."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from lpir.errors import LpirError
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.op import REGISTRY
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.serialize.xml_read import read_model
from lpir.serialize.xml_write import to_bytes
from tests.serialize.oracle import one_operation

TRIES = 150


def sample() -> tuple[bytes, bytes]:
    x = parameter("1,?,8,8", f32, "x")
    w = constant(np.ones((4, 3, 3, 3), np.float32), name="w")
    convolution = REGISTRY["Convolution"].cases()[0].op
    y = Node(REGISTRY["Convolution"](**convolution.attributes()), [x.output, w], "conv")
    shape = constant(np.array([0, -1], np.int64), name="shape")
    z = Node(REGISTRY["Reshape"](special_zero=True), [y.output, shape], "flat")  # type: ignore[call-arg]
    axis = constant(np.array(1, np.int64), name="axis")
    parts = Node(REGISTRY["Split"](num_splits=2), [z.output, axis], "parts")  # type: ignore[call-arg]
    return to_bytes(Model([Node(Result(), [v], f"r{v.index}") for v in parts.outputs], [x], "m"))


XML, BIN = sample()
NUMBERS = [
    "-1",
    "0",
    "99999999999999999999",
    "9223372036854775807",
    "4294967296",
    "",
    "x",
    "1,2,3",
    "-2147483648",
    "nan",
]


def attempt(xml: bytes, weights: bytes) -> bool:
    try:
        read_model(xml, weights)
    except LpirError:
        return False
    return True


@pytest.mark.parametrize("seed", range(4))
def test_flipped_and_cut_bytes(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(TRIES):
        xml, weights = bytearray(XML), bytearray(BIN)
        for _ in range(chance.randint(1, 4)):
            victim = chance.choice([xml, weights])
            what = chance.randrange(4)
            place = chance.randrange(len(victim) or 1)
            if what == 0:
                del victim[place:]
            elif what == 1 and victim:
                victim[place] ^= 1 << chance.randrange(8)
            elif what == 2:
                victim[place : place + chance.randint(1, 20)] = b""
            elif victim:
                victim[place] = chance.randrange(256)
        attempt(bytes(xml), bytes(weights))


@pytest.mark.parametrize("seed", range(4))
def test_wrong_numbers(seed: int) -> None:
    """Every quoted text is a candidate for a hostile value: well-formed XML with wrong meaning."""
    chance = random.Random(100 + seed)
    places = [m.span(1) for m in re.finditer(rb'="([^"]*)"', XML)]
    for _ in range(TRIES):
        xml = XML
        for start, end in sorted(chance.sample(places, chance.randint(1, 2)), reverse=True):
            xml = xml[:start] + chance.choice(NUMBERS).encode() + xml[end:]
        attempt(xml, BIN)


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - {"Parameter", "Constant", "Result"}))
def test_wrong_attributes_of_every_operation(name: str) -> None:
    chance = random.Random(name)
    for case in REGISTRY[name].cases()[:2]:
        xml, weights = to_bytes(one_operation(case)[0])
        (layer,) = re.finditer(rb'name="op".*?</layer>', xml, re.DOTALL)
        data = re.search(rb"<data (.*?)/>", layer[0])
        values = [m.span(1) for m in re.finditer(rb'="([^"]*)"', data[1])] if data else []
        offset = layer.start() + (data.start(1) if data else 0)
        for start, end in values:
            for text in NUMBERS:
                attempt(xml[: offset + start] + text.encode() + xml[offset + end :], weights)
        for _ in range(10):
            place = chance.randrange(len(weights) or 1)
            hostile = bytes(chance.choice((0, 255, 128, 127)) for _ in range(8))
            attempt(xml, weights[:place] + hostile + weights[place + 8 :])


def test_the_sample_is_good() -> None:
    assert attempt(XML, BIN)
