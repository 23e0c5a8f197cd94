"""Layers that make the tasks of a block when they are needed."""

from __future__ import annotations

from operator import getitem
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from lucidcube.lift.layers import BlockLayer, Positions, ResultOf, by_rule, in_memory, planes_of


def square(number: int) -> Any:
    return (pow, number, 2)


def test_a_layer_is_a_mapping_of_keys_to_tasks() -> None:
    layer = BlockLayer("x", 3, square, ndim=2)
    assert dict(layer) == {("x", 0, 0): (pow, 0, 2), ("x", 1, 0): (pow, 1, 2), ("x", 2, 0): (pow, 2, 2)}
    assert not layer.is_materialized()
    assert layer.get_output_keys() == {*layer}
    for key in (("x", 3, 0), ("x", 0), ("y", 0, 0), ("x", 0, 1), "x", ("x", -1, 0)):
        assert key not in layer
        with pytest.raises(KeyError):
            layer[key]


def test_arrays_of_such_layers_are_computed_and_sliced_by_dask() -> None:
    graph = HighLevelGraph.from_collections("x", BlockLayer("x", 4, lambda n: (np.full, 2, n)), [])
    array = da.Array(graph, "x", ((2,) * 4,), dtype=int)
    result = ResultOf("x", getitem, (slice(1),))
    graph = HighLevelGraph.from_collections("y", BlockLayer("y", 4, result), [array])
    other = da.Array(graph, "y", ((1,) * 4,), dtype=int)
    for scheduler in ("synchronous", "threads"):
        assert (array + 1)[1:5].compute(scheduler=scheduler).tolist() == [1, 2, 2, 3]
        assert (2 * other)[::-1].compute(scheduler=scheduler).tolist() == [6, 4, 2, 0]


@pytest.mark.parametrize("task", [lambda n: ("a", n), lambda n: (getitem, ("a", n), 1)])
def test_layers_of_results_become_rules(task: Any) -> None:
    tasks = {("b", n, 0, 0): task(n) for n in range(5)}
    rule = by_rule("b", MaterializedLayer(tasks))
    assert not rule.is_materialized()
    assert dict(rule) == tasks
    for changed in (
        {("b", 3, 0, 0): ("a", 4)},
        {("b", 7, 0, 0): task(7)},
        {("b", 2, 0, 0): (getitem, ("a", 2), 0)},
    ):
        layer = MaterializedLayer(tasks | changed)
        assert by_rule("b", layer) is layer


@pytest.mark.parametrize("tasks", [{}, {("b", 0): 3}, {"b": ("a", 0)}, {("b", 1): ("a", 1)}])
def test_other_layers_are_left_as_they_are(tasks: dict[Any, Any]) -> None:
    layer = MaterializedLayer(tasks)
    assert by_rule("b", layer) is layer


@pytest.mark.parametrize("sizes", [(4, 4, 2), (4,), (1, 1, 1, 1), (2, 5, 3), (2, 2, 4)])
def test_planes_of_a_source(sizes: tuple[int, ...]) -> None:
    values = np.arange(sum(sizes) * 6, dtype=np.float32).reshape(-1, 2, 3)
    lazy = in_memory(values, sizes, "values")
    assert lazy.chunks == (sizes, (2,), (3,))
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), values)
    np.testing.assert_array_equal(
        (lazy[1:] * 2)[:, 1].compute(scheduler="synchronous"), (values[1:] * 2)[:, 1]
    )
    positions = planes_of(Positions(sum(sizes)), sizes, "positions")
    blocks = dask.compute(*positions.to_delayed().tolist(), scheduler="synchronous")
    assert [len(block) for block in blocks] == [*sizes]
    assert np.concatenate(blocks).tolist() == [*range(sum(sizes))]


def test_the_size_of_a_regular_layer_does_not_depend_on_the_number_of_blocks() -> None:
    sizes = []
    for blocks in (10, 10_000):
        (layer,) = planes_of(Positions(blocks), (1,) * blocks, "x").dask.layers.values()
        layer.collection_annotations = None  # dask keeps the chunks there for pictures of graphs
        sizes.append(len(cloudpickle.dumps(layer)))
    assert abs(sizes[1] - sizes[0]) < 20
