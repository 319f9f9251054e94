"""CPU: compiles a model to native code, and runs INT8 where the IR asks for it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import lpir.ops  # noqa: F401  (registers the operations)
from lpir.devices.cpu import pipeline
from lpir.devices.cpu.explain import explain_plan, operations_of
from lpir.devices.cpu.isa import Isa, all_isas, by_name, host_isa
from lpir.devices.cpu.kernels.base import Step
from lpir.devices.cpu.loops import compile_bodies
from lpir.devices.cpu.plan import NativeSegment, Plan, Planner
from lpir.devices.cpu.run import CpuRunner, code_for, compile_steps
from lpir.devices.cpu.split import SplitExecutable, split
from lpir.devices.cpu.threads import threads_and_streams
from lpir.devices.cpu.work import threads_for
from lpir.errors import InputError, UnsupportedError
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.runtime.device import Executable, Runner
from lpir.runtime.explain import Explanation
from lpir.runtime.interpreter import Interpreter
from lpir.runtime.ports import ends_of

if TYPE_CHECKING:
    from lpir.devices.cpu.tune import Tuning

# plans of a dynamic model that are kept, one for each tuple of input shapes
KEPT_PLANS = 32


def compile_model(model: Model, config: Mapping[str, Any]) -> Executable:
    """A model in the form that suits it: native, with a plan for each shape, or run by operations' references."""
    return compile_with(model, Options(config))


def compile_with(model: Model, options: Options) -> Executable:
    """As `compile_model`; bodies of loops have the options of their model."""
    if pipeline.is_stateful(model):
        return Interpreter(model.clone(), "CPU", options.profile)
    public, prepared = Public(model), pipeline.prepare(model, options.low_precision)
    if all(v.shape.is_static for v in prepared.inputs):
        return compile_static(public, prepared, options)
    return DynamicExecutable(public, prepared, options)


class Public:
    """What is kept of the model that the user gave."""

    def __init__(self, model: Model) -> None:
        self.ends = ends_of(model)
        self.operations = operations_of(model)


class Options:
    """What the properties come to on this machine."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        name = config.get("ISA", "auto")
        self.isa: Isa = host_isa() if name == "auto" else by_name(name)
        if name != "auto" and not self.isa.available():
            have = ", ".join(isa.name for isa in all_isas() if isa.available())
            raise InputError(f"this machine cannot run ISA {name}; it has {have}")
        self.profile = bool(config.get("PERF_COUNT", False))
        self.low_precision = bool(config.get("LP_TRANSFORMS_MODE", True))
        self.threads, self.streams = threads_and_streams(config)
        self.tune = bool(config.get("TUNE", False))
        self.folder = Path(config["CACHE_DIR"]) if config.get("CACHE_DIR") else None


def compile_static(public: Public, prepared: Model, options: Options) -> Executable:
    """A model with static inputs: native as far as shapes do not depend on values."""
    compile_bodies(prepared, lambda body: compile_with(body, options))
    if pipeline.is_static(prepared):
        return CpuExecutable(public, prepared, options)
    parts = split(prepared)
    if parts is None:
        return Interpreter(prepared, "CPU", options.profile)
    head, tail = parts
    native = CpuExecutable(public, head, options)
    return SplitExecutable(native, Interpreter(tail, "CPU", options.profile), prepared)


class CpuExecutable(Executable):
    """A static model: one plan, shared by all requests. `prepared` is its cleaned form."""

    def __init__(self, public: Public, prepared: Model, options: Options) -> None:
        self.public, self.prepared, self.options = public, prepared, options
        self.lowered = pipeline.lower_for(prepared, options.low_precision, options.isa)
        self.threads = threads_for(self.lowered, options.threads)
        self._code = code_for(options.isa)
        # functions that nothing before this plan needed
        self.compiled_kernels = 0
        tuning = _tuning(options, self.threads) if options.tune else None
        planner = Planner(self.lowered, options.isa, self.threads, options.profile, self._compile, tuning)
        self.plan: Plan = planner.plan()
        if tuning:
            tuning.save()
        steps = [s for g in self.plan.segments if isinstance(g, NativeSegment) for s in g.steps]
        self.addresses = compile_steps(options.isa, steps)
        pipeline.hollow(self.lowered)
        self._runners = 0

    def _compile(self, step: Step) -> None:
        """Starts to compile a step's function unless the process has it."""
        self.compiled_kernels += self._code.add(step.code.symbol, step.code.text)

    def create_runner(self) -> Runner:
        self._runners += 1
        stream = self._runners % self.options.streams
        return CpuRunner(self.plan, self.addresses, self.options.isa, self.threads, stream)

    def explain(self) -> Explanation:
        return explain_plan(self.public.operations, self.lowered, self.plan, self.options.isa)

    def runtime_model(self) -> Model:
        # made again: the one at hand has no weights any more
        return pipeline.lower_for(self.prepared, self.options.low_precision, self.options.isa)

    def export_model(self, prefix: str = "lpir_model", soname: str = "") -> bytes:
        from lpir.devices.cpu.aot.build import build

        isa = self.options.isa
        return build(self.public.ends, self.plan, isa, self.threads, self._code, self.explain(), prefix, soname)

    def header(self, prefix: str) -> str:
        from lpir.devices.cpu.aot.build import header

        return header(self.public.ends, self.options.isa, prefix)

    def properties(self) -> dict[str, Any]:
        return facts(self.options) | {"PLANS": 1, "COMPILED_KERNELS": self.compiled_kernels}


def _tuning(options: Options, threads: int) -> Tuning:
    # models that nobody tunes start without it
    from lpir.devices.cpu.tune import Tuning

    return Tuning(options.isa, threads, options.folder)


class DynamicExecutable(Executable):
    """A model whose input shapes are known at inference: a plan for each tuple of shapes, the last used ones kept."""

    def __init__(self, public: Public, prepared: Model, options: Options) -> None:
        self.public, self.prepared, self.options = public, prepared, options
        self._plans: OrderedDict[tuple[tuple[int, ...], ...], Executable] = OrderedDict()
        # of all plans that were made, also those that are not kept
        self._made = Counter({"PLANS": 0, "COMPILED_KERNELS": 0})
        self._lock = Lock()

    def executable(self, shapes: tuple[tuple[int, ...], ...]) -> Executable:
        """The model compiled for these input shapes."""
        with self._lock:
            found = self._plans.pop(shapes, None) or self._compile(shapes)
            self._plans[shapes] = found
            if len(self._plans) > KEPT_PLANS:
                self._plans.popitem(last=False)
            return found

    def _compile(self, shapes: tuple[tuple[int, ...], ...]) -> Executable:
        made = compile_static(self.public, pipeline.specialize(self.prepared, shapes), self.options)
        self._made.update(PLANS=1, COMPILED_KERNELS=made.properties().get("COMPILED_KERNELS", 0))
        return made

    def create_runner(self) -> Runner:
        return DynamicRunner(self)

    def export_model(self, prefix: str = "lpir_model", soname: str = "") -> bytes:
        names = ", ".join(f"'{v.name}' {v.shape}" for v in self.public.ends.inputs if not v.shape.is_static)
        raise UnsupportedError(f"a model with dynamic shapes cannot be a library: {names}; Model.reshape() fixes them")

    def runtime_model(self) -> Model:
        return self.prepared.clone()

    def explain(self) -> Explanation:
        with self._lock:
            latest = next(reversed(self._plans.values()), None)
        if latest is None:
            raise InputError("the model has dynamic shapes: run it once, or reshape it, before explain()")
        return latest.explain()

    def properties(self) -> dict[str, Any]:
        return facts(self.options) | self._made


class DynamicRunner(Runner):
    """A runner for each shape that this request has seen lately."""

    def __init__(self, executable: DynamicExecutable) -> None:
        self.executable = executable
        self.current: tuple[Executable, Runner] | None = None

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        found = self.executable.executable(tuple(x.shape for x in inputs))
        if self.current is None or self.current[0] is not found:
            self.current = found, found.create_runner()
        return self.current[1].run(inputs)

    def profiling_info(self) -> Any:
        return self.current[1].profiling_info() if self.current else []

    def forget(self) -> None:
        if self.current:
            self.current[1].forget()


def facts(options: Options) -> dict[str, Any]:
    """Read-only properties of an executable."""
    return {
        "ISA": options.isa.name,
        "INFERENCE_NUM_THREADS": options.threads * options.streams,
        "NUM_STREAMS": options.streams,
        "OPTIMAL_NUMBER_OF_INFER_REQUESTS": options.streams,
    }
