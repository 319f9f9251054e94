"""Where quantizers go: recorded for small networks; renew with `pytest --golden`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lpir.errors import InputError
from lpir.ir.model import Model
from lpir.ops.boundary import constant
from lpir.ops.builder import make
from lpir.quantize.config import IgnoredScope
from lpir.quantize.placement import Placement, place
from lpir.quantize.traits import Traits
from tests.quantize.graphs import GRAPHS, Net, attention, concat, depthwise, detection, relu, residual
from tests.quantize.graphs import squeeze_and_excite as gated

GOLDEN = Path(__file__).parent.parent / "golden" / "placement"


@pytest.mark.parametrize("build", GRAPHS, ids=lambda f: f.__name__)
def test_placement_is_as_recorded(build: Callable[[], Model], golden: bool) -> None:
    text = place(build(), Traits()).dump()
    if build is attention:
        text += "transformer:\n" + place(build(), Traits(), transformer=True, symmetric=False).dump()
    if build is depthwise:
        text += "per channel:\n" + place(build(), Traits(), per_channel_depthwise=True).dump()
    if build is residual:
        text += "additions not fused:\n" + place(build(), Traits(fused_addition=False)).dump()
    path = GOLDEN / f"{build.__name__}.txt"
    if golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def quantized(placement: Placement) -> dict[str, list[str]]:
    """Tensor -> readers that see it quantized."""
    return {a.value.name: [f"{u.node.name}.{u.index}" for u in a.uses] for a in placement.activations}


def test_both_inputs_of_a_concat_share_a_group() -> None:
    found = {a.value.name: a.group for a in place(concat(), Traits()).activations}
    assert found["a.relu"] is not None
    assert found["a.relu"] == found["b.add"]


def test_the_gate_of_squeeze_and_excite_stays_float() -> None:
    placement = place(gated(), Traits())
    assert {"squeeze", "excite"} <= set(placement.ignored)
    assert {w.value.name for w in placement.weights} == {"stem.weight", "head.weight"}
    assert "gate" in quantized(placement)


def test_probabilities_times_values_stay_float_in_a_transformer() -> None:
    placement = place(attention(), Traits(), transformer=True, symmetric=False)
    assert "mix" in placement.ignored
    # queries and keys are quantized before the reshape, with zero in the middle
    forced = {a.value.name for a in placement.activations if a.symmetric}
    assert forced == {"query.add", "key.add"}


def test_post_processing_stays_float() -> None:
    placement = place(detection(), Traits())
    assert "doubled" in placement.ignored
    assert all("doubled" not in reader for readers in quantized(placement).values() for reader in readers)


def test_a_float_reader_keeps_its_float() -> None:
    """One reader quantized, the other (a model output) not: the quantizer serves only the first."""
    net = Net(1, 3, 8, 8)
    x = relu(net.convolution(net.input.output, 4, "a"), "a.relu")
    model = net.model(net.convolution(x, 4, "b"), x)
    assert quantized(place(model, Traits()))["a.relu"] == ["b.0"]


def test_a_quantizer_moves_up_through_movement_only_when_all_readers_ask() -> None:
    net = Net(1, 4, 8, 8)
    x = relu(net.convolution(net.input.output, 4, "a"), "a.relu")
    turned = make("Transpose", x, constant(np.array([0, 1, 3, 2], np.int64)), name="turned")
    asked = net.model(net.convolution(turned, 4, "b"))
    assert quantized(place(asked, Traits()))["a.relu"] == ["turned.0"]
    other = net.model(net.convolution(turned, 4, "c"), turned)
    assert "turned" in quantized(place(other, Traits()))


def test_ignored_names_patterns_and_types() -> None:
    model = residual()
    scope = IgnoredScope(names="head", patterns=["bran.*h$"], types="Add")
    found = scope.matches(model)
    assert {"head", "branch", "sum"} <= found
    placement = place(model, Traits(), ignored=dict.fromkeys(found, "asked"))
    assert {w.value.name for w in placement.weights} == {"stem.weight"}
    with pytest.raises(InputError, match=r"name 'nobody', type 'Nothing', pattern 'x\.\*'"):
        IgnoredScope(names=["nobody"], types=["Nothing"], patterns=["x.*"]).matches(model)
    assert IgnoredScope(names=["nobody"], validate=False).matches(model) == set()
    with pytest.raises(InputError, match="not a regular expression"):
        IgnoredScope(patterns="(").matches(model)
