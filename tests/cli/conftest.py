"""A small model as files, and a way to call the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lpir.cli import main


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `lpir ARGUMENTS`."""

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Outcome(int(end.value.code or 0), captured.out, captured.err)

    return run


def float_network(batch: int | str = 1) -> onnx.ModelProto:
    """[N, 3, 8, 8] "image" -> Conv, Relu, Conv, GlobalAveragePool, Flatten -> [N, 5] "scores"."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
        "w2": rng.standard_normal((5, 8, 1, 1)).astype(np.float32) / 3,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="conv2"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], name="pool"),
        helper.make_node("Flatten", ["d"], ["scores"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 5])],
        [onnx.numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@dataclass(frozen=True)
class Files:
    """`model` (.onnx), `int8` (.xml, quantized), and calibration data of every kind, in one folder."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def int8(self) -> Path:
        return self.folder / "int8.xml"

    @property
    def one(self) -> Path:
        return self.folder / "one.npy"

    @property
    def batch(self) -> Path:
        return self.folder / "batch.npy"

    @property
    def named(self) -> Path:
        return self.folder / "named.npz"

    @property
    def picture(self) -> Path:
        return self.folder / "picture.png"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files, made once; tests only read them."""
    import lpir

    made = Files(tmp_path_factory.mktemp("cli"))
    onnx.save(float_network(), made.model)
    onnx.save(float_network("N"), made.folder / "dynamic.onnx")
    rng = np.random.default_rng(1)
    data = rng.standard_normal((6, 3, 8, 8)).astype(np.float32)
    np.save(made.batch, data)
    np.save(made.one, data[:1])
    np.savez(made.named, image=data[:1])
    from PIL import Image

    Image.fromarray(rng.integers(0, 256, (10, 9, 3), np.uint8)).save(made.picture)
    model = lpir.convert_model(made.model)
    lpir.save_model(lpir.quantize(model, list(data[:, None])), made.int8)
    return made
