"""`lpir explain`."""

from __future__ import annotations

import json as json_format
from typing import Annotated

import typer

from lpir.cli.options import AsIs, Device, Isa, ModelPath, Shapes, configuration, load


def command(
    model: ModelPath,
    device: Device = "CPU",
    refused: Annotated[bool, typer.Option(help="Only what the IR wants in INT8 and does not get.")] = False,
    json: Annotated[bool, typer.Option(help="As JSON.")] = False,
    shape: Shapes = None,
    isa: Isa = "",
    as_is: AsIs = False,
) -> None:
    """Say for each operation which precision and kernel it runs in, and why an INT8 one does not run in INT8."""
    import lpir

    explanation = lpir.compile_model(load(model, shape), device, configuration(0, isa, as_is)).explain()
    if json:
        print(json_format.dumps(explanation.to_dict(), indent=1))
    elif refused:
        for row in explanation.refused():
            print(f"{row.name} ({row.type}): {'; '.join(row.reasons)}")
        print(f"{len(explanation.refused())} of {len(explanation)} operations were refused INT8")
    else:
        print(explanation)
