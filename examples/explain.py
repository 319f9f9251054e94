"""What runs in which precision, why the rest does not run in INT8, and where the time goes.

python examples/explain.py int8.xml
"""

import sys
from collections import Counter

import lpir


def main(path: str) -> None:
    compiled = lpir.compile_model(path, "CPU", {"PERF_COUNT": "YES"})
    explanation = compiled.explain()
    print(explanation.summary())

    for reason, rows in explanation.reasons().items():
        print(f"not in INT8, because {reason}: {', '.join(row.name for row in rows)}")

    kernels = Counter((row.precision, row.kernel) for row in explanation if row.counts)
    for (precision, kernel), count in kernels.most_common():
        print(f"{count:4} x {precision} {kernel}")

    request = compiled.create_infer_request()
    for tensor in request.input_tensors:
        tensor.data[:] = 0
    for _ in range(3):
        request.infer()
    slowest = sorted(request.get_profiling_info(), key=lambda info: -info.real_time)[:5]
    for info in slowest:
        print(f"{info.real_time.microseconds:6} us  {info.node_name} ({info.exec_type})")


if __name__ == "__main__":
    main(*sys.argv[1:])
