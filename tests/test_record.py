"""Records do what frozen dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from lpir.record import record


@record
class Point:
    kind: ClassVar[str] = "point"
    x: float
    y: float = 0.0


@record
class Named(Point):
    name: str = field(default="", metadata={"xml": "id"})
    tags: list[str] = field(default_factory=list)


@record(eq=False)
class Body:
    mass: float


@dataclass(frozen=True)
class Derived(Named):
    extra: int = 1


@record
class Bare:
    """Without fields."""


@record
class Doubled:
    value: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", 2 * self.value)

    def __repr__(self) -> str:
        return f"<{self.value}>"


def test_fields_are_given_by_position_by_name_or_by_default() -> None:
    assert (Point(1.0).x, Point(1.0).y, Point(1.0, y=2.0).y) == (1.0, 0.0, 2.0)
    first, second = Named(1.0, name="a"), Named(1.0)
    first.tags.append("t")
    assert (first.name, first.tags, second.tags) == ("a", ["t"], [])
    assert Point.kind == "point"
    assert Doubled(2).value == 4


@pytest.mark.parametrize(
    "make",
    [lambda: Point(), lambda: Point(1, 2, 3), lambda: Point(1, x=2), lambda: Point(1, z=2), lambda: Bare(1)],  # type: ignore
)
def test_wrong_arguments_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=r"Point|Bare"):
        make()


def test_equality_and_hash_are_those_of_the_values() -> None:
    assert Point(1.0) == Point(1.0, 0.0) != Point(1.0, 1.0)
    assert hash(Point(1.0)) == hash(Point(1.0))
    assert len({Point(1.0), Point(1.0)}) == 1
    assert Point(1.0) != Named(1.0)
    assert Bare() == Bare()
    nan = float("nan")
    assert Point(nan) == Point(nan)


def test_without_eq_only_the_same_object_is_equal() -> None:
    body = Body(1.0)
    assert body == body != Body(1.0)
    assert len({body, Body(1.0)}) == 2


def test_records_are_frozen() -> None:
    point = Point(1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2.0  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    assert point.x == 1.0


def test_functions_of_dataclasses_take_records() -> None:
    assert [f.name for f in dataclasses.fields(Named)] == ["x", "y", "name", "tags"]
    assert dataclasses.fields(Named)[2].metadata["xml"] == "id"
    assert dataclasses.replace(Point(1.0, 2.0), y=3.0) == Point(1.0, 3.0)  # type: ignore[type-var]
    assert dataclasses.is_dataclass(Point)
    match Point(1.0, 2.0):
        case Point(x, y):
            assert (x, y) == (1.0, 2.0)


def test_dataclasses_derive_from_records() -> None:
    derived = Derived(1.0, 2.0, "n", [], 5)
    assert (derived.y, derived.extra) == (2.0, 5)
    assert derived == Derived(1.0, 2.0, "n", [], 5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        derived.extra = 2  # type: ignore[misc]


def test_methods_of_the_class_stay() -> None:
    assert repr(Doubled(1)) == "<2>"
    assert repr(Point(1.0)) == "Point(x=1.0, y=0.0)"


def test_records_are_copied_and_pickled() -> None:
    assert copy.deepcopy(Named(1.0, tags=["a"])) == Named(1.0, tags=["a"])
    assert pickle.loads(pickle.dumps(Point(1.0))) == Point(1.0)
