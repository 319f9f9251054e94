"""`lpir demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lpir.cli._options import Threads
from lpir.demo.networks import NETWORKS

EXAMPLES = """
lpir demo
lpir demo --network efficientnet_lite0 --threads 1
"""


def command(
    network: Annotated[str, typer.Option(help=f"Which network: {' or '.join(NETWORKS)}.")] = "mobilenet_v2",
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the IR files go; made if needed.")
    ] = Path("lpir-demo"),
    threads: Threads = 0,
) -> None:
    """Quantize a real network and compare.

    An ImageNet network runs in INT8 beside FP32 on real photos: labels, sizes and times. Network, weights and photos
    come from installed packages, nothing is downloaded.
    """
    from lpir.demo.show import show

    show(network, output, threads)
