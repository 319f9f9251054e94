"""What the quantizer knows about operations, as data: which compute in INT8, which only move values."""

from __future__ import annotations

from lpir.record import record
from lpir.runtime.device import Capabilities

# data port, weight port, and the weight's axes that get a scale of their own; MatMul's depend on its attributes
CONVOLUTIONS: dict[str, tuple[int, ...]] = {
    "Convolution": (0,),
    "GroupConvolution": (0, 1),
    "ConvolutionBackpropData": (1,),
    "GroupConvolutionBackpropData": (0, 2),
}

# operations that give some of their input's values unchanged, and the ports of those inputs (None: all)
MOVEMENT: dict[str, tuple[int, ...] | None] = {
    "MaxPool": (0,),
    "AdaptiveMaxPool": (0,),
    "ReduceMax": (0,),
    "ReduceMin": (0,),
    "Reshape": (0,),
    "Squeeze": (0,),
    "Unsqueeze": (0,),
    "Flatten": (0,),
    "Split": (0,),
    "VariadicSplit": (0,),
    "Transpose": (0,),
    "Tile": (0,),
    "StridedSlice": (0,),
    "Slice": (0,),
    "ShuffleChannels": (0,),
    "Broadcast": (0,),
    "Pad": (0,),
    "Gather": (0,),
    "DepthToSpace": (0,),
    "SpaceToDepth": (0,),
    "BatchToSpace": (0,),
    "SpaceToBatch": (0,),
    "Reverse": (0,),
    "Concat": None,
}

# movement that leaves the channels where they are: one range a channel stays right
KEEPS_CHANNELS = frozenset({"MaxPool", "Pad"})

# kept float in transformers: sums around normalizations lose more than INT8 gains there
FLOAT_IN_TRANSFORMERS = frozenset(
    [
        "Add",
        "Subtract",
        "Multiply",
        "Divide",
        "Power",
        "Sqrt",
        "Maximum",
        "AvgPool",
        "ReduceMean",
        "ReduceSum",
        "ReduceL2",
        "SquaredDifference",
        "MVN",
        "GroupNormalization",
        "BatchNormInference",
        "Equal",
        "NotEqual",
        "Greater",
        "GreaterEqual",
        "Less",
        "LessEqual",
    ]
)

POST_PROCESSING = frozenset({"TopK", "NonMaxSuppression", "MulticlassNms", "MatrixNms", "DetectionOutput"})


# operations besides the linear ones that compute on 8-bit inputs with gain
QUANTIZABLE = frozenset(
    ["Add", "Subtract", "Multiply", "Maximum", "Minimum", "AvgPool", "AdaptiveAvgPool", "ReduceMean", "Interpolate"]
)


@record
class Traits:
    """What a device gains from quantization: the operations whose inputs it wants in INT8."""

    linear: frozenset[str] = frozenset({*CONVOLUTIONS, "MatMul"})
    quantizable: frozenset[str] = QUANTIZABLE
    movement: frozenset[str] = frozenset(MOVEMENT)
    per_channel_depthwise: bool = True
    # an addition is part of the layer that computes one of its operands
    fused_addition: bool = True


def traits_for(capabilities: Capabilities | None) -> Traits:
    """The traits of a device; a device without integer arithmetic, or None, gets everything."""
    if capabilities is None or not capabilities.low_precision or not capabilities.integer_operations:
        return Traits()
    known = capabilities.integer_operations
    own = Traits()
    # movement costs nothing anywhere: a value may be read on its way through it
    return Traits(own.linear & known, own.quantizable & known, own.movement, capabilities.per_channel_activations)
