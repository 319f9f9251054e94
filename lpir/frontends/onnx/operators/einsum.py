"""Einsum, as transposes and matrix products."""

from __future__ import annotations

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call, rank_of
from lpir.frontends.onnx.table import operator
from lpir.ir.graph import Value
from lpir.ir.types import i64
from lpir.record import record


@record
class Term:
    """A tensor with one letter a dimension."""

    value: Value
    letters: str


@operator("Einsum", since=12)
def einsum(c: Call) -> Value:
    """Operands are multiplied from left to right; a letter that nothing after needs is summed at once."""
    inputs, output = parse(c)
    terms = [reduced(c, t, "".join(inputs[:i] + inputs[i + 1 :]) + output) for i, t in enumerate(operands(c, inputs))]
    result = terms[0]
    for index, term in enumerate(terms[1:], 1):
        needed = "".join(t.letters for t in terms[index + 1 :]) + output
        result = product(c, result, term, needed)
    return ordered(c, reduced(c, result, output), output).value


def parse(c: Call) -> tuple[list[str], str]:
    """Letters of the operands and of the output; "..." becomes upper-case letters."""
    left, arrow, right = c.text("equation").replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(c.inputs):
        raise ModelError(f"{len(inputs)} terms for {len(c.inputs)} inputs")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        right = ("..." if "..." in left else "") + "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    extra = 0
    for index, term in enumerate(inputs):
        if "..." in term:
            extra = max(extra, c.rank(index) - len(term) + 3)
    free = [x for x in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if x not in left + right]
    if extra > len(free):
        raise UnsupportedError("too many dimensions")
    for index, term in enumerate(inputs):
        count = c.rank(index) - len(term.replace("...", ""))
        inputs[index] = term.replace("...", "".join(free[extra - count : extra]))
        if len(inputs[index]) != c.rank(index):
            raise ModelError(f"term '{term}' does not fit an input of rank {c.rank(index)}")
        if len(set(inputs[index])) != len(inputs[index]):
            raise UnsupportedError(f"diagonals (term '{term}') are not supported")
    output = right.replace("...", "".join(free[:extra]))
    if set(output) - set("".join(inputs)) or len(set(output)) != len(output):
        raise ModelError(f"the output '{right}' does not follow from '{left}'")
    return inputs, output


def operands(c: Call, inputs: list[str]) -> list[Term]:
    return [Term(c[i], letters) for i, letters in enumerate(inputs)]


def reduced(c: Call, term: Term, needed: str) -> Term:
    """Sums over the letters that are not needed."""
    gone = [i for i, x in enumerate(term.letters) if x not in needed]
    if not gone:
        return term
    total = c.make("ReduceSum", term.value, c.const(gone), keep_dims=False)
    return Term(total, "".join(x for x in term.letters if x in needed))


def ordered(c: Call, term: Term, letters: str) -> Term:
    """The dimensions in the order of `letters`."""
    if term.letters == letters:
        return term
    order = [term.letters.index(x) for x in letters]
    return Term(c.make("Transpose", term.value, c.const(order)), letters)


def product(c: Call, a: Term, b: Term, needed: str) -> Term:
    """One matrix product: shared letters that are needed are batches, the other shared ones are summed."""
    shared = [x for x in a.letters if x in b.letters]
    batch = "".join(x for x in shared if x in needed)
    summed = "".join(x for x in shared if x not in needed)
    rows = "".join(x for x in a.letters if x not in shared)
    columns = "".join(x for x in b.letters if x not in shared)
    left = matrix(c, ordered(c, a, batch + rows + summed), len(batch), len(rows))
    right = matrix(c, ordered(c, b, batch + summed + columns), len(batch), len(summed))
    y = c.make("MatMul", left, right, transpose_a=False, transpose_b=False)
    letters = batch + rows + columns
    if len(rows) == 1 and len(columns) == 1:
        return Term(y, letters)
    target = [length(c, b if x in columns else a, b if x in batch else a, x) for x in letters]
    shape = c.make("Concat", *target, axis=0) if target else c.const([])
    return Term(c.make("Reshape", y, shape, special_zero=False), letters)


def length(c: Call, term: Term, other: Term, letter: str) -> Value:
    """The length of a dimension, as a vector of one; a shared one may be 1 in one of the two tensors."""
    found = dimension(c, term.value, term.letters.index(letter))
    if other is term or letter not in other.letters:
        return found
    return c.make("Maximum", found, dimension(c, other.value, other.letters.index(letter)))


def dimension(c: Call, x: Value, axis: int) -> Value:
    if x.shape[axis].is_static:
        return c.const([x.shape[axis].length])
    shape = c.make("ShapeOf", x, output_type=i64)
    return c.make("Gather", shape, c.const([axis]), c.const(0), batch_dims=0)


def matrix(c: Call, term: Term, batch: int, rows: int) -> Value:
    """`[batch..., rows..., columns...]` as `[batch..., product of rows, product of columns]`."""
    x, rank = term.value, rank_of(term.value)
    if rows == 1 and rank - batch == 2:
        return x
    lengths = [dimension(c, x, i) for i in range(rank)]
    parts = [*lengths[:batch], *[multiplied(c, p) for p in (lengths[batch : batch + rows], lengths[batch + rows :])]]
    return c.make("Reshape", x, c.make("Concat", *parts, axis=0), special_zero=False)


def multiplied(c: Call, lengths: list[Value]) -> Value:
    if not lengths:
        return c.const([1])
    result = lengths[0]
    for value in lengths[1:]:
        result = c.make("Multiply", result, value)
    return result
