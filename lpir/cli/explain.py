"""`lpir explain`."""

from __future__ import annotations

import json as json_format
from typing import Annotated

import typer

from lpir.cli._options import AsIs, Config, Device, Isa, ModelPath, Shapes, configuration, load
from lpir.errors import InputError

EXAMPLES = """
lpir explain int8.xml
lpir explain int8.xml --refused         only what could be in INT8 and is not
lpir explain int8.xml --isa avx2        as on a CPU without VNNI
lpir explain model.onnx -s 1,3,224,224  a model with dynamic shapes
lpir explain int8.xml --json | jq .summary
"""


def command(
    model: ModelPath,
    device: Device = "CPU",
    refused: Annotated[
        bool, typer.Option("--refused", help="Only what the IR wants in INT8 and does not get, by reason.")
    ] = False,
    all: Annotated[
        bool, typer.Option("--all", "-a", help="Also what was folded at compile time, such as decoded weights.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    shape: Shapes = None,
    isa: Isa = "auto",
    as_is: AsIs = False,
    config: Config = None,
) -> None:
    """Say what runs in which precision, and why.

    One line an operation: its precision and kernel. What runs inside another operation's kernel is indented below it.
    A number in brackets stands for the reason why an operation that the IR wants in INT8 runs in float.
    """
    import lpir

    compiled = lpir.compile_model(load(model, shape), device, configuration(0, isa, as_is, config))
    try:
        explanation = compiled.explain()
    except InputError as error:
        raise InputError(f"{error}; here: --shape NAME=1,3,224,224") from error
    if json:
        print(json_format.dumps(explanation.to_dict(), indent=1))
    else:
        print(explanation.refused_text() if refused else explanation.text(folded=all))
