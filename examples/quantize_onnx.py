"""An ONNX model becomes a Low Precision IR, and is compared with itself in float.

    python examples/quantize_onnx.py model.onnx items.npy int8.xml

items.npy: an array of typical inputs, [count, ...] with one item's shape behind, without the batch dimension.
"""

import sys

import numpy as np

import lpir


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def main(source: str, data: str, target: str) -> None:
    model = lpir.convert_model(source)
    items = np.load(data)
    # a dataset is any iterable; `transform` makes a model input of each item
    dataset = lpir.Dataset(items, transform=lambda item: item[None])
    quantized = lpir.quantize(model, dataset, subset_size=100)
    lpir.save_model(quantized, target, compress_to_fp16=False)

    in_float = lpir.compile_model(model, "CPU")
    in_int8 = lpir.compile_model(target, "CPU")
    print(in_int8.explain().summary())
    found = [cosine(in_float(item[None])[0], in_int8(item[None])[0]) for item in items]
    print(f"cosine with the float model: {np.mean(found):.4f} in the mean, {min(found):.4f} at worst")


if __name__ == "__main__":
    main(*sys.argv[1:])
