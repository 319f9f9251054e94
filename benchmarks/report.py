"""The tables of `benchmarks.peers`, and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.fidelity import Fidelity
from benchmarks.rounds import Times, ratio


@dataclass(frozen=True)
class Contender:
    """What the tables need to know of an engine."""

    name: str
    maker: str
    precision: str
    saturates: bool

    @property
    def is_peer(self) -> bool:
        return not self.maker.startswith("lpir")


@dataclass(frozen=True)
class Setting:
    """Threads and streams of a race, and its times by engine name."""

    threads: int
    streams: int
    times: Mapping[str, Times]

    @property
    def title(self) -> str:
        if self.streams > 1:
            return f"{self.streams} streams"
        return f"{self.threads} thread" + ("s" if self.threads > 1 else "")

    def cell(self, name: str) -> str:
        """Milliseconds, median (best); with streams inferences a second."""
        times = self.times[name]
        if self.streams > 1:
            return f"{1e3 / times.median:.0f}/s"
        return f"{times.median:.2f} ({times.best:.2f})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def speed_table(contenders: Sequence[Contender], settings: Sequence[Setting]) -> str:
    """A row for each engine: its times, and how much faster lpir is in the same precision."""
    header = ["engine"]
    for setting in settings:
        unit = "inferences" if setting.streams > 1 else "ms (best)"
        header += [f"{setting.title}, {unit}", "lpir is faster"]
    rows = []
    for engine in contenders:
        cells = [engine.name]
        for setting in settings:
            mine = f"lpir {engine.precision}"
            faster = ratio(setting.times[engine.name], setting.times[mine])
            cells += [setting.cell(engine.name), "" if engine.name == mine else f"{faster:.2f}x"]
        rows.append(cells)
    return markdown(header, rows)


def fidelity_table(
    contenders: Sequence[Contender], found: Mapping[str, Fidelity], starts: Mapping[str, Mapping[str, float]]
) -> str:
    """A row for each engine: what it costs to start in a new process, and how right it is."""
    header = ["engine", "saturates", "read + compile, ms", "peak MB", "top-1"]
    header += ["cosine to its exact arithmetic: mean, worst", "cosine to FP32: mean, worst"]
    rows = []
    for engine in contenders:
        row, start = found[engine.name], starts.get(engine.name)
        rows.append(
            [
                engine.name,
                "yes" if engine.saturates else "",
                f"{start['read'] + start['compile']:.0f}" if start else "",
                f"{start['peak MB']:.0f}" if start else "",
                "" if row.top1 is None else f"{row.top1}/{row.samples}",
                str(row.to_exact or ""),
                str(row.to_fp32),
            ]
        )
    return markdown(header, rows)


def best(contenders: Sequence[Contender], setting: Setting) -> Contender:
    """The fastest in a setting."""
    return min(contenders, key=lambda engine: setting.times[engine.name].median)


def summary_row(title: str, contenders: Sequence[Contender], setting: Setting) -> list[str]:
    """lpir against the best INT8 peer, the best exact one, and the best FP32 one."""
    peers = [engine for engine in contenders if engine.is_peer]
    int8 = [engine for engine in peers if engine.precision == "INT8"]
    groups = [
        ("lpir INT8", int8),
        ("lpir INT8", [engine for engine in int8 if not engine.saturates]),
        ("lpir FP32", [engine for engine in peers if engine.precision == "FP32"]),
    ]
    cells = [title, setting.title, setting.cell("lpir INT8"), setting.cell("lpir FP32")]
    for mine, group in groups:
        if not group:
            cells.append("")
            continue
        winner = best(group, setting)
        faster = ratio(setting.times[winner.name], setting.times[mine])
        cells.append(f"{faster:.2f}x {winner.maker.rstrip(',')} {setting.cell(winner.name)}")
    own = ratio(setting.times["lpir FP32"], setting.times["lpir INT8"])
    return [*cells, f"{own:.2f}x"]


SUMMARY = (
    "network",
    "setting",
    "lpir INT8",
    "lpir FP32",
    "against the best INT8 peer",
    "against the best exact INT8 peer",
    "FP32 against the best FP32 peer",
    "INT8 against own FP32",
)


def kernel_lines(found: Mapping[str, Fidelity]) -> list[str]:
    """Which kernels run the products of lpir and of OpenVINO."""
    return [
        f"{engine}, {kind}: " + ", ".join(f"{n} x {k}" for k, n in names.items())
        for engine in ("lpir INT8", "OpenVINO INT8")
        for kind, names in found[engine].kernels.items()
    ]
