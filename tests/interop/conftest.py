"""Real networks and photos, prepared once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

import lpir
from lpir.demo.photos import photos
from lpir.ir.model import Model
from tests.interop.networks import FLOAT, Array, openvino_model, quantize_with_nncf

CALIBRATION = 4


@pytest.fixture(scope="session")
def pictures() -> list[Array]:
    """Six photos as [1, 3, 224, 224]; the first four calibrate, the others were never seen."""
    return [p.input() for p in photos()[:6]]


@pytest.fixture(scope="session")
def unseen(pictures: list[Array]) -> list[Array]:
    return pictures[CALIBRATION:]


@pytest.fixture(scope="session")
def float_model() -> Callable[[str], Model]:
    """A network by name; treat it as read-only."""
    return cache(lambda name: FLOAT[name]())


@pytest.fixture(scope="session")
def nncf_file(
    tmp_path_factory: pytest.TempPathFactory, pictures: list[Array], float_model: Callable[[str], Model]
) -> Callable[[str], Path]:
    """The path of the INT8 IR that NNCF made of a network, by name."""
    folder = tmp_path_factory.mktemp("nncf")

    def make(name: str) -> Path:
        path = folder / f"{name}.xml"
        model = openvino_model(float_model(name), folder)
        ov.save_model(quantize_with_nncf(model, inputs_of(name, pictures)), path)
        return path

    return cache(make)


@pytest.fixture(scope="session")
def own_file(
    tmp_path_factory: pytest.TempPathFactory, pictures: list[Array], float_model: Callable[[str], Model]
) -> Callable[[str], Path]:
    """The path of the INT8 IR that lpir made of a network, by name."""
    folder = tmp_path_factory.mktemp("own")

    def make(name: str) -> Path:
        path = folder / f"{name}.xml"
        quantized = lpir.quantize(float_model(name), inputs_of(name, pictures), correction="none", progress=False)
        lpir.save_model(quantized, path)
        return path

    return cache(make)


def inputs_of(name: str, pictures: list[Array]) -> list[Array]:
    """Calibration photos in the size that the network takes."""
    return [fit(name, x) for x in pictures[:CALIBRATION]]


def fit(name: str, x: Array) -> Array:
    """The photo, or its 64 x 64 pixels in the middle for the small network."""
    return np.ascontiguousarray(x[..., 80:144, 80:144]) if name == "resnet_block" else x
