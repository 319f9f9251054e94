"""The C header of a compiled model."""

from __future__ import annotations

import re

_HEADER = """\
/* {what}
 *
 * Inputs and outputs:
{ports}
 *
 *     {p}_request *r = {p}_create(1);
 *     memcpy({p}_input_data(r, 0), input, {p}_input(0)->bytes);
 *     {p}_run(r);
 *     memcpy(output, {p}_output_data(r, 0), {p}_output(0)->bytes);
 *     {p}_destroy(r);
 *
 * Tensors are dense and row-major. The library needs nothing but the C library.
 */
#ifndef {guard}
#define {guard}

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

typedef struct {p}_request {p}_request;

typedef struct {p}_tensor {{
    const char *name;
    const char *type; /* OpenVINO's name: f32, u8, i64, ... */
    int64_t rank;
    const int64_t *shape;
    int64_t bytes;
}} {p}_tensor;

/* 1 if this processor can run the model ({isa}), else 0. */
int {p}_supported(void);

/* The most threads that a request may have. */
int64_t {p}_threads(void);

/* Number of inputs and outputs, and what they are; NULL for an index that does not exist. */
int64_t {p}_inputs(void);
int64_t {p}_outputs(void);
const {p}_tensor *{p}_input(int64_t index);
const {p}_tensor *{p}_output(int64_t index);

/* Memory of one inference at a time, for 1 to {p}_threads() threads. NULL when there is not enough memory, the
 * number of threads does not fit, or the processor cannot run the model. Requests are independent of each other. */
{p}_request *{p}_create(int64_t threads);
void {p}_destroy({p}_request *request);

/* Where an input is written and an output is read, 64-byte aligned; NULL for an index that does not exist. An input is
 * to be written again before every run: its memory serves other tensors too. */
void *{p}_input_data({p}_request *request, int64_t index);
const void *{p}_output_data({p}_request *request, int64_t index);

/* One inference. */
void {p}_run({p}_request *request);

/* For more than one thread: each further thread calls serve with its number (1, 2, ...) once; it takes part in all
 * inferences until stop is called. Destroy the request only after serve has returned everywhere. */
void {p}_serve({p}_request *request, int64_t thread);
void {p}_stop({p}_request *request);

#ifdef __cplusplus
}}
#endif
#endif
"""


def header_text(prefix: str, name: str, isa: str, inputs: list[str], outputs: list[str]) -> str:
    """The header; `inputs` and `outputs` describe each tensor in words."""
    ports = [*(f"input {i}: {t}" for i, t in enumerate(inputs)), *(f"output {i}: {t}" for i, t in enumerate(outputs))]
    clean = [re.sub(r"[^ -~]|\*/|/\*", "?", port) for port in ports]
    what = re.sub(r"[^ -~]|\*/|/\*", "?", f"The network '{name}', compiled by lpir.")
    return _HEADER.format(
        p=prefix, guard=f"{prefix.upper()}_H", what=what, isa=isa, ports="\n".join(f" *   {p}" for p in clean)
    )
