"""The demonstration's networks and photos: float accuracy, and what quantization leaves of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpir.demo.blocks import Blocks
from lpir.demo.efficientnet import efficientnet_lite0
from lpir.demo.mobilenet import mobilenet_v2
from lpir.demo.packages import file_of, files_of
from lpir.demo.photos import class_names, correct, photos, read_image, top
from lpir.errors import FileError
from lpir.ir.model import Model
from lpir.quantize.pipeline import quantize
from tests.quantize.test_pipeline import run, sqnr

Array = np.ndarray[Any, np.dtype[Any]]

# network, right labels in float of 20 photos, least SQNR of the logits in dB on photos that did not calibrate.
# NNCF's default gives 14.2 dB on EfficientNet-Lite0 in exact arithmetic; MobileNetV2 amplifies any rounding (a change
# of the input by 1e-4 already gives 17 dB), so little lies between a good and a bad quantization there
NETWORKS = [(mobilenet_v2, 18, 14.0), (efficientnet_lite0, 16, 18.0)]


@cache
def inputs() -> list[Array]:
    return [photo.input() for photo in photos()]


@cache
def float_outputs(build: Callable[[], Model]) -> list[Array]:
    return run(build(), inputs(), "CPU")


@pytest.mark.parametrize(("build", "right", "decibels"), NETWORKS)
def test_float_accuracy(build: Callable[[], Model], right: int, decibels: float) -> None:
    outputs = float_outputs(build)
    assert correct(outputs) == right
    # the reference and the CPU differ by the order of float sums only
    assert sqnr(run(build(), inputs()[:1]), outputs[:1]) > 90


@pytest.mark.parametrize(("build", "right", "decibels"), NETWORKS)
def test_int8_stays_close_on_unseen_photos(build: Callable[[], Model], right: int, decibels: float) -> None:
    """Ten photos calibrate, one read at a time; the other ten measure."""
    reads: list[int] = []

    def calibration() -> Iterator[Array]:
        for index, x in enumerate(inputs()[::2]):
            reads.append(index)
            yield x

    quantized = quantize(build(), calibration(), progress=False)
    assert reads == list(range(10))
    outputs = run(quantized, inputs(), "CPU")
    expected = float_outputs(build)
    assert sqnr(expected[1::2], outputs[1::2]) > decibels
    assert abs(correct(outputs) - right) <= 1


def test_photos_are_labeled_pictures() -> None:
    found = photos()
    assert len(found) == 20
    assert len({p.label for p in found}) > 15
    x = found[0].input()
    assert x.shape == (1, 3, 224, 224)
    assert x.dtype == np.float32
    assert abs(float(x.mean())) < 2
    assert found[0].input(160).shape == (1, 3, 160, 160)


def test_class_names() -> None:
    names = class_names()
    assert len(names) == 1000
    assert (names[0], names[281]) == ("tench", "tabby")
    logits = np.zeros(1000, np.float32)
    logits[281] = 20
    assert top(logits, 1)[0] == ("tabby", pytest.approx(1, abs=1e-4))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="pip install --no-deps lpir-no-such-package"):
        files_of("lpir-no-such-package")
    with pytest.raises(FileError, match=r"has no nothing\.bin; install it again"):
        file_of("foolbox", "nothing.bin")
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(b"no picture")
    with pytest.raises(FileError, match="not a readable picture"):
        read_image(picture)
    with pytest.raises(FileError, match="not a readable picture"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(FileError, match=r"no tensor 'features\.0\.0\.weight'"):
        mobilenet_v2({})


def test_same_padding_puts_the_odd_pixel_at_the_end() -> None:
    blocks = Blocks({}, 1e-3, same=True)
    image = mobilenet_v2().inputs[0]
    assert blocks._pads(image, 3, 2) == (0, 1)
    assert blocks._pads(image, 5, 1) == (2, 2)
    assert Blocks({}, 1e-3, same=False)._pads(image, 3, 2) == (1, 1)
