"""What a profile says: every operation, its work, what the machine allows, and why other kernels were refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.isa import all_isas, by_name
from lpir.devices.cpu.plan import NativeSegment, Planner
from lpir.devices.cpu.roofline import READS, TILE_DOT, Roofline, roofline
from lpir.devices.cpu.work import Work, work, work_of
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, parameter
from lpir.ops.builder import make
from lpir.ops.lowered import ACCUMULATOR, LoweredConvolution, LoweredMatMul
from lpir.ops.lowered_attention import LoweredAttention
from lpir.ops.lowered_recurrent import Recurrence
from lpir.ops.recurrent_cells import CellKind
from lpir.runtime.profile import ProfilingInfo
from lpir.scalar.expr import Expr, input_
from tests.devices.cpu.foreign import foreign
from tests.devices.cpu.harness import make_node
from tests.passes.networks import mobile_block
from tests.tolerances import EXACT, assert_close

ISAS = [isa.name for isa in all_isas() if isa.available()]
X = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
LINE = Roofline("dot", 2, dot=4e12, fma=1e12, reads=((1 << 10, 4e11), (1 << 20, 1e11)))


def profile(**config: Any) -> list[ProfilingInfo]:
    request = lpir.compile_model(mobile_block(), "CPU", {"PERF_COUNT": True, **config}).create_infer_request()
    request.infer([X])
    return request.get_profiling_info()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_node_has_its_time(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpir.devices.cpu.work.ONE_THREAD", 0)
    request = lpir.compile_model(
        mobile_block(), "CPU", {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads}
    ).create_infer_request()
    plan = request.compiled.executable.plan  # type: ignore[attr-defined]
    (segment,) = plan.segments
    request.infer([X])
    first = request.get_profiling_info()
    assert [i.node_name for i in first] == [node.name for node, _ in segment.nodes]
    assert [i.exec_type for i in first] == [choice.name for _, choice in segment.nodes]
    assert all(0 < i.seconds < 1 for i in first)
    assert all(i.real_time.total_seconds() == pytest.approx(i.seconds, abs=1e-6) for i in first)
    # inside the time of the whole request
    assert sum(i.seconds for i in first) * 1e3 < request.latency
    request.infer([X])
    assert [i.seconds for i in request.get_profiling_info()] != [i.seconds for i in first]


def test_measuring_changes_no_bits_and_stays_one_native_call() -> None:
    plain, measured = (lpir.compile_model(mobile_block(), "CPU", {"PERF_COUNT": on}) for on in (False, True))
    assert_close(measured([X])[0], plain([X])[0], EXACT)
    plans = [c.executable.plan for c in (plain, measured)]  # type: ignore[attr-defined]
    assert [len(plan.segments) for plan in plans] == [1, 1]
    # a step at the start, and one behind each node
    assert len(plans[1].segments[0].steps) == len(plans[0].segments[0].steps) + len(plans[1].segments[0].nodes) + 1
    assert plans[0].stamps is None


def test_an_operation_that_runs_in_python_has_its_time_too() -> None:
    p = parameter([2, 8], f32, "x")
    middle = foreign(make("Relu", p.outputs[0], name="before"))
    after = make("Relu", make("Negative", middle), name="after")
    model = Model([Node(Result(), [after], "r")], [p])
    request = lpir.compile_model(model, "CPU", {"PERF_COUNT": True}).create_infer_request()
    request.infer([np.ones((2, 8), np.float32)])
    info = request.get_profiling_info()
    assert [i.node_name for i in info] == ["before", "middle", "after"]
    assert info[1].exec_type == "eval"
    assert info[1].refused
    assert all(i.seconds > 0 for i in info)


def test_work_of_products() -> None:
    x, w = np.zeros((2, 9, 9, 8), np.uint8), np.zeros((3, 3, 4, 6), np.int8)
    geometry = {"strides": (2, 2), "dilations": (1, 1), "pads_begin": (1, 1), "pads_end": (1, 1)}
    node = make_node(LoweredConvolution(**geometry, groups=2, x_zero_point=0, epilogue=ACCUMULATOR), [x, w], [1])
    assert work_of(node) == Work(2 * 5 * 5 * 6 * 9 * 4, 0, constants=w.size, tensors=x.size + 4 * 2 * 5 * 5 * 6)
    a, b = np.zeros((2, 3, 5, 7), np.float32), np.zeros((7, 4), np.float32)
    node = make_node(LoweredMatMul(False, 0, 0, input_(0, f32)), [a, b])
    assert work_of(node) == Work(0, 2 * 3 * 5 * 7 * 4, 0, 4 * (a.size + b.size + 2 * 3 * 5 * 4))
    gates, r, h = np.zeros((2, 5, 12), np.float32), np.zeros((4, 12), np.float32), np.zeros((2, 4), np.float32)
    cell = CellKind("gru", ("sigmoid", "tanh"), 0.0)
    assert work_of(make_node(Recurrence(cell, False, False), [gates, r, h])).float32 == 2 * 5 * 4 * 12
    q, k, v = (np.zeros(s, t) for s, t in (((1, 5, 2, 8), np.uint8), ((1, 2, 7, 8), np.uint8), ((1, 2, 7, 3), "f4")))
    attention = LoweredAttention((2, 1, 1, 1), 0, 0, 0, Expr("cast", (ACCUMULATOR,), f32), input_(0, f32))
    found = work_of(make_node(attention, [q, k, v]))
    assert (found.int8, found.float32, found.macs) == (2 * 5 * 7 * 8, 2 * 5 * 7 * 3, 2 * 5 * 7 * 11)


def test_matrix_instructions_bound_all_products_but_depthwise_ones() -> None:
    line = replace(LINE, tiles=32e12)
    product, depthwise = (Work(8_000_000, 0, 0, 64, depthwise=flag) for flag in (False, True))
    assert (line.bound(product, 0).by, line.bound(product, 0).seconds) == ("tdpbusd", pytest.approx(2.5e-7))
    assert line.bound(depthwise, 0) == LINE.bound(depthwise, 0)
    x, w = np.zeros((1, 6, 6, 8), np.uint8), np.zeros((3, 3, 1, 8), np.int8)
    geometry = {"strides": (1, 1), "dilations": (1, 1), "pads_begin": (1, 1), "pads_end": (1, 1)}
    node = make_node(LoweredConvolution(**geometry, groups=8, x_zero_point=0, epilogue=ACCUMULATOR), [x, w], [1])
    assert work_of(node) == Work(6 * 6 * 8 * 9, 0, w.size, x.size + 4 * x.size, depthwise=True)


def test_the_slower_of_arithmetic_and_memory_is_the_bound() -> None:
    busy = LINE.bound(Work(8_000_000, 0, constants=0, tensors=2048), constants=0)
    assert (busy.by, busy.seconds, busy.rate) == ("dot", pytest.approx(2e-6), pytest.approx(4e12))
    floats = LINE.bound(Work(0, 8_000_000, constants=0, tensors=2048), constants=0)
    assert (floats.by, floats.seconds, str(floats)) == ("fma", pytest.approx(8e-6), "1000 GMAC/s fma")
    moving = LINE.bound(Work(0, 0, constants=0, tensors=4 << 20), constants=0)
    assert (moving.by, moving.seconds, str(moving)) == ("memory", pytest.approx((4 << 20) / 1e11), "100 GB/s memory")
    # few bytes of weights, of a model whose weights no cache holds
    weights = LINE.bound(Work(0, 0, constants=4096, tensors=0), constants=8 << 20)
    assert weights.seconds == pytest.approx(4096 / 1e11)
    assert LINE.bound(Work(0, 0, 0, 0), 0).seconds == 0
    assert [LINE.bandwidth(n) for n in (0, 2 << 10, (2 << 20) - 1, 2 << 20)] == [4e11, 4e11, 4e11, 1e11]


@pytest.mark.parametrize("isa", ISAS)
def test_the_machine_is_measured(isa: str) -> None:
    line = roofline(isa, 1)
    assert line is roofline(isa, 1)
    assert [size for size, _ in line.reads] == list(READS)
    assert min(line.dot, line.fma) > 1e7
    # what an instruction for bytes is for
    assert line.dot > line.fma or isa == "generic"
    assert (line.tiles > line.dot) == by_name(isa).tiles
    rates = [rate for _, rate in line.reads]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 1e7
    info = {i.node_name: i for i in profile(ISA=isa, INFERENCE_NUM_THREADS=1)}
    conv = info["conv2"]
    assert conv.macs == 8 * 8 * 16 * 16 * 9
    assert conv.gmacs == pytest.approx(conv.macs / conv.seconds / 1e9)
    assert conv.bound is not None
    assert conv.share == pytest.approx(conv.bound.seconds / conv.seconds)
    assert conv.bound.by in (TILE_DOT if line.tiles else line.instruction, "memory")


def test_reasons_against_other_kernels() -> None:
    info = {i.node_name: i for i in profile()}
    assert info["conv2"].refused
    assert all(info["conv2"].refused.values())
    assert info["conv2"].exec_type not in info["conv2"].refused


def test_planned_work_counts_products_or_elements() -> None:
    lowered = lpir.compile_model(mobile_block(), "CPU").get_runtime_model()
    assert work(lowered) > 8 * 8 * 16 * 9 * (3 + 16 + 1)
    plan = Planner(lowered, all_isas()[0], 1, profile=True).plan()
    assert plan.stamps is not None
    assert isinstance(plan.segments[0], NativeSegment)
    assert plan.stamps.shape == (len(plan.segments[0].nodes) + 1, 2)
