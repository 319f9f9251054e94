"""`quantize` on small networks: what comes out, what is refused, what stays untouched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lpir.errors import InputError, ModelError
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import f16, f32
from lpir.ops.boundary import Result, constant, constant_data, parameter
from lpir.ops.builder import make
from lpir.quantize.config import IgnoredScope, QuantizationConfig
from lpir.quantize.dataset import Dataset
from lpir.quantize.pipeline import quantize
from lpir.runtime import registry
from tests.quantize.graphs import GRAPHS, Net, attention, concat, depthwise, residual

Array = np.ndarray[Any, np.dtype[Any]]
# random weights and inputs, 8 bits: a wrong placement or range costs far more than this leaves
SMALL_NET_DB = 25.0


def run(model: Model, inputs: list[Array], device: str = "REFERENCE") -> list[Array]:
    made = registry.load(device)
    runner = made.compile(model, made.configure(None)).create_runner()
    return [runner.run([x])[0] for x in inputs]


def sqnr(expected: list[Array], actual: list[Array]) -> float:
    """Signal to quantization noise over all arrays, in dB."""
    signal = sum(float((e.astype(np.float64) ** 2).sum()) for e in expected)
    noise = sum(float(((e.astype(np.float64) - a) ** 2).sum()) for e, a in zip(expected, actual, strict=True))
    return 10 * float(np.log10(signal / max(noise, 1e-30)))


def samples(model: Model, count: int, seed: int = 1) -> list[Array]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(model.inputs[0].shape.to_static()).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("preset", ["performance", "mixed"])
@pytest.mark.parametrize("build", [g for g in GRAPHS if g.__name__ != "detection"], ids=lambda f: f.__name__)
def test_small_networks_stay_close_to_float(build: Any, preset: str) -> None:
    model = build()
    before = model.dump()
    kind = "transformer" if build is attention else None
    quantized = quantize(model, samples(model, 8), preset=preset, model_type=kind, progress=False)
    assert model.dump() == before
    unseen = samples(model, 4, seed=2)
    assert sqnr(run(model, unseen), run(quantized, unseen)) > SMALL_NET_DB
    assert sqnr(run(model, unseen), run(quantized, unseen, "CPU")) > SMALL_NET_DB


@pytest.mark.parametrize(
    "options",
    [
        {"activation_range": "minmax"},
        {"activation_range": "mean_minmax"},
        {"activation_range": "percentile", "percentile": 100.0},
        {"activation_range": "mse"},
        {"correction": "none"},
        {"correction": "bias"},
        {"per_channel_depthwise": True, "target_device": "REFERENCE"},
        {"compress_weights": False},
        {"subset_size": 2},
    ],
    ids=str,
)
def test_options(options: dict[str, Any]) -> None:
    model = depthwise()
    quantized = quantize(model, samples(model, 8), progress=False, **options)
    assert sqnr(run(model, samples(model, 3)), run(quantized, samples(model, 3))) > SMALL_NET_DB
    limits = {tuple(n.inputs[1].shape.to_static()) for n in quantized.nodes() if n.op.type_name == "FakeQuantize"}
    assert ((1, 8, 1, 1) in limits) == options.get("per_channel_depthwise", False)
    assert ((8, 1, 1, 1, 1) in limits) != options.get("compress_weights", True)


def test_weights_are_codes_and_choices_are_in_rt_info() -> None:
    model = residual()
    model.rt_info = {"conversion": {"source": "test"}}
    quantized = quantize(model, samples(model, 2), preset="mixed", progress=False)
    codes = [n for n in quantized.nodes() if n.op.type_name == "Constant" and n.output.element_type.name == "i8"]
    assert len(codes) == 3
    for node in codes:
        data = np.asarray(constant_data(node.output))
        assert np.abs(data.astype(np.int32)).max() == 127
        assert node.output.uses[0].node.op.type_name == "Convert"
    info = quantized.rt_info["lpir"]["quantization"]
    assert info["preset"] == "mixed"
    assert info["subset_size"] == "300"
    assert quantized.rt_info["conversion"] == {"source": "test"}
    assert "lpir" not in model.rt_info


def test_the_same_data_gives_the_same_model() -> None:
    model = concat()
    first, second = (quantize(model, samples(model, 3), progress=False) for _ in range(2))
    assert first.dump() == second.dump()
    x = samples(model, 1)
    assert np.array_equal(run(first, x)[0], run(second, x)[0])


def test_inputs_of_a_concat_get_the_same_limits() -> None:
    model = concat()
    quantized = quantize(model, samples(model, 3), progress=False)
    joined = next(n for n in quantized.nodes() if n.op.type_name == "Concat")
    limits = [[np.asarray(constant_data(v)).tolist() for v in source.node.inputs[1:]] for source in joined.inputs]
    assert limits[0] == limits[1]


def test_the_correction_brings_the_mean_back() -> None:
    """With weights of 4 steps the error is large; the fitted layer's mean output is the float one's again."""
    model = residual()
    data = samples(model, 8)
    plain = quantize(model, data, progress=False, correction="none")
    fitted = quantize(model, data, progress=False)
    expected = np.mean(run(model, data), axis=(0, 1, 3, 4))
    off = [np.abs(np.mean(run(m, data), axis=(0, 1, 3, 4)) - expected).max() for m in (plain, fitted)]
    assert off[1] < off[0] / 2


def test_a_layer_without_bias_gets_one() -> None:
    x = parameter((1, 4), f32, "x")
    weight = constant(np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32), name="w")
    y = make("MatMul", x.output, weight, name="y", transpose_b=True)
    model = Model([Node(Result(), [y], "out")], [x])
    quantized = quantize(model, samples(model, 4), progress=False)
    assert quantized.results[0].inputs[0].node.op.type_name == "Add"
    assert quantized.outputs[0].shape == (1, 3)


def test_half_precision_weights_behind_a_convert() -> None:
    x = parameter((1, 8), f32, "x")
    weight = constant(np.random.default_rng(0).standard_normal((3, 8)).astype(np.float16), f16, name="w")
    weight = make("Convert", weight, name="decompressed", destination_type=f32)
    weight.node.rt_info["decompression"] = "0"
    model = Model([Node(Result(), [make("MatMul", x.output, weight, name="y", transpose_b=True)], "out")], [x])
    quantized = quantize(model, samples(model, 4), progress=False)
    assert any(n.output.element_type.name == "i8" for n in quantized.nodes() if n.op.type_name == "Constant")


def test_a_dynamic_batch_stays_dynamic() -> None:
    x = parameter(("?", 8), f32, "x")
    weight = constant(np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32), name="w")
    model = Model([Node(Result(), [make("MatMul", x.output, weight, name="y", transpose_b=True)], "out")], [x])
    random = np.random.default_rng(0)
    data = [random.standard_normal((n, 8)).astype(np.float32) for n in (1, 3, 2)]
    quantized = quantize(model, data, progress=False)
    assert str(quantized.outputs[0].shape) == str(model.outputs[0].shape)
    assert sqnr(run(model, data), run(quantized, data)) > SMALL_NET_DB


def test_attention_masks_stay_float() -> None:
    """A tensor that reaches -3e38 would leave no code for anything else."""
    net = Net(1, 4, 8)
    x = net.linear(net.input.output, 4, "scores")
    mask = make("Multiply", make("Relu", net.input.output, name="r"), constant(np.float32(-3e38)), name="mask")
    short = make("Slice", mask, *(constant(np.array([v], np.int64)) for v in (0, 4, 1, 2)), name="short")
    model = net.model(net.linear(make("Add", make("Relu", x, name="p"), short, name="masked"), 3, "head"))
    quantized = quantize(model, samples(model, 3), progress=False)
    for node in quantized.nodes():
        if node.op.type_name == "FakeQuantize":
            assert all(np.isfinite(np.asarray(constant_data(v))).all() for v in node.inputs[1:])
            assert np.abs(np.asarray(constant_data(node.inputs[1]))).max() < 1e30


def test_progress_is_reported_and_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    model = residual()
    seen: list[tuple[str, int, int]] = []
    quantize(model, samples(model, 3), progress=lambda what, done, total: seen.append((what, done, total)))
    assert ("Calibrating", 3, 3) in seen
    assert seen[-1] == ("Correcting", 3, 3)
    # stderr is no terminal here: no bar
    quantize(model, samples(model, 1), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_a_quantized_model_is_refused() -> None:
    model = residual()
    quantized = quantize(model, samples(model, 2), progress=False)
    with pytest.raises(InputError, match="quantized already: it has 3 FakeQuantize nodes"):
        quantize(quantized, samples(model, 2), progress=False)


def test_a_model_that_makes_nan_is_named() -> None:
    net = Net(1, 4)
    broken = make("Sqrt", net.input.output, name="root")
    model = net.model(net.linear(broken, 3, "head"))
    with pytest.raises(ModelError, match="gives NaN in 'root' for calibration item 1"):
        quantize(model, [np.ones((1, 4), np.float32), -np.ones((1, 4), np.float32)], progress=False)


def test_an_empty_dataset_is_an_error() -> None:
    with pytest.raises(InputError, match="empty"):
        quantize(residual(), Dataset([]), progress=False)


WRONG = [
    ({"preset": "fast"}, "preset must be one of performance, mixed"),
    ({"model_type": "cnn"}, "model_type must be None or 'transformer'"),
    ({"subset_size": 0}, "subset_size must be at least 1"),
    ({"speed": 3}, "unknown quantization options: speed"),
    ({"activation_range": "magic"}, "activation_range must be one of"),
    ({"correction": "all"}, "correction must be"),
    ({"percentile": 20.0}, "percentile must be above 50"),
    ({"target_device": "NPU"}, "unknown device 'NPU'"),
    ({"ignored_scope": IgnoredScope(names="none")}, "nothing in the model matches name 'none'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[m for _, m in WRONG])
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    model = residual()
    with pytest.raises(InputError, match=message):
        quantize(model, samples(model, 1), progress=False, **options)


def test_one_config_object_for_all_choices() -> None:
    model = residual()
    config = QuantizationConfig(preset="mixed", ignored_scope=IgnoredScope(types="Add"))
    quantized = quantize(model, samples(model, 1), config=config, correction="none", progress=False)
    info = quantized.rt_info["lpir"]["quantization"]
    assert (info["preset"], info["correction"], info["ignored_scope"]) == ("mixed", "none", "types=Add")
