"""`lpir demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lpir.cli.options import Threads
from lpir.demo.show import NETWORKS, show


def command(
    network: Annotated[str, typer.Option(help=f"Which network: {' or '.join(NETWORKS)}.")] = "mobilenet_v2",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the IR files; default: lpir-demo here.")
    ] = None,
    threads: Threads = 0,
) -> None:
    """Quantize a real ImageNet network, run it in INT8 beside FP32, and compare labels, sizes and times."""
    show(network, output or Path("lpir-demo"), threads)
