"""Several inferences side by side: more per second, each a little later.

python examples/async_requests.py int8.xml
"""

import sys
import time

import numpy as np

import lpir

COUNT = 64


def main(path: str) -> None:
    # THROUGHPUT: as many streams as cores, each of one thread
    compiled = lpir.compile_model(path, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
    port = compiled.input(0)
    rng = np.random.default_rng(0)
    items = [rng.standard_normal(port.shape.to_static()).astype(np.float32) for _ in range(COUNT)]

    answers: dict[int, np.ndarray] = {}

    def keep(request: lpir.InferRequest, index: int) -> None:
        answers[index] = request.get_output_tensor(0).data.copy()

    queue = lpir.AsyncInferQueue(compiled)
    queue.set_callback(keep)
    start = time.perf_counter()
    for index, item in enumerate(items):
        # waits while all requests are busy
        queue.start_async([item], userdata=index)
    queue.wait_all()
    seconds = time.perf_counter() - start

    same = all(np.array_equal(answers[i], compiled(item)[0]) for i, item in enumerate(items))
    print(f"{len(queue)} requests side by side: {COUNT / seconds:.0f} inferences/s")
    print(f"the answers are {'the same' if same else 'NOT THE SAME'} as one after the other")


if __name__ == "__main__":
    main(*sys.argv[1:])
