"""Units against a naive union-find and against the meaning of products."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paretune.prune._couplings.units import Units


def naive_classes(count, pairs):
    label = list(range(count))
    for a, b in pairs:
        old, new = label[a], label[b]
        label = [new if x == old else x for x in label]
    return [[i for i in range(count) if label[i] == label[j]] for j in range(count)]


@given(st.lists(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), min_size=1, max_size=8), max_size=6))
def test_unions_of_arrays_are_the_unions_of_their_pairs(batches):
    units = Units()
    units.new(20)
    for batch in batches:
        a, b = np.array(batch).T
        units.union(a, b)
    root = units.find(np.arange(20))
    expected = naive_classes(20, [pair for batch in batches for pair in batch])
    assert [np.flatnonzero(root == r).tolist() for r in root] == expected


def test_a_fixed_partner_pins_and_the_first_reason_is_told():
    units = Units()
    axis = units.new(3)
    first, second = units.reason("first", ""), units.reason("second", "")
    units.union(axis, np.array([-1 - first, axis[1], -1 - first]))
    units.pin(axis, second)
    assert units.pinned(axis).tolist() == [first, second, first]


def test_a_pin_outlives_a_union():
    units = Units()
    axis = units.new(4)
    units.pin(axis[3:], units.reason("why", ""))
    units.union(axis[3:], axis[:1])
    assert units.pinned(axis).tolist() == [0, -1, -1, 0]


def test_merging_with_a_fixed_axis_repeats_the_units():
    units = Units()
    channel = units.new(2)
    assert units.merge(channel, np.array([-1, -1, -1])).tolist() == [0, 0, 0, 1, 1, 1]
    assert units.merge(np.array([-1, -1]), channel).tolist() == [0, 1, 0, 1]


def test_a_position_of_a_split_axis_goes_with_its_block_or_its_place():
    units = Units()
    axis = units.new(6)
    blocks, places, fresh = units.split(axis, 2, 3, units.reason("mixed", ""))
    assert fresh and len(blocks) == 2 and len(places) == 3
    assert units.keep(blocks[:1])[axis].tolist() == [False] * 3 + [True] * 3
    assert units.keep(places[1:2])[axis].tolist() == [True, False, True] * 2


def test_split_undoes_merge_and_a_second_split_finds_the_first():
    units = Units()
    heads, width = units.new(2), units.new(3)
    merged = units.merge(heads, width)
    blocks, places, fresh = units.split(merged, 2, 3, units.reason("mixed", ""))
    assert not fresh and blocks.tolist() == heads.tolist() and places.tolist() == width.tolist()
    axis = units.new(6)
    one = units.split(axis, 2, 3, 0)
    two = units.split(axis, 2, 3, 0)
    assert [x.tolist() for x in one[:2]] == [x.tolist() for x in two[:2]] and not two[2]


def test_coupling_two_split_axes_couples_blocks_with_blocks_and_places_with_places():
    units = Units()
    a, b = units.new(6), units.new(6)
    mixed = units.reason("mixed", "")
    blocks_a, places_a, _ = units.split(a, 2, 3, mixed)
    blocks_b, places_b, _ = units.split(b, 2, 3, mixed)
    units.union(a, b)
    assert (units.find(blocks_a) == units.find(blocks_b)).all()
    assert (units.find(places_a) == units.find(places_b)).all()


def test_a_pinned_position_pins_what_could_remove_it():
    units = Units()
    axis = units.new(4)
    blocks, places, _ = units.split(axis, 2, 2, units.reason("mixed", ""))
    units.pin(axis[:1], units.reason("read by number", ""))
    units.resolve()
    assert units.pinned(blocks).tolist() == [1, -1] and units.pinned(places).tolist() == [1, -1]
