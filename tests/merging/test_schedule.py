"""Who runs which batch: by size, around nodes that die, and never more than two at a batch."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tvmerge.fleet.schedule import AHEAD, BATCH_TRIES, COPIES, NODE_TRIES, Schedule


def test_largest_batches_go_first_two_to_each_node() -> None:
    schedule = Schedule({0: 10, 1: 40, 2: 20, 3: 30, 4: 5}, ["a", "b"])
    assert [schedule.next_for(node) for node in "ababab"] == [1, 3, 2, 0, None, None]
    assert schedule.done("b", 3)
    assert schedule.next_for("b") == 4


def test_idle_node_takes_what_another_has_not_begun() -> None:
    schedule = Schedule({0: 3, 1: 2, 2: 1}, ["slow", "fast"])
    assert [schedule.next_for(node) for node in ("slow", "slow", "fast")] == [0, 1, 2]
    assert schedule.next_for("fast") is None  # has its own to do first
    assert schedule.done("fast", 2)
    assert schedule.next_for("fast") == 1
    assert schedule.done("fast", 1)
    assert schedule.next_for("fast") == 0
    assert schedule.done("fast", 0)
    assert schedule.finished
    assert not schedule.done("slow", 0)  # the same bytes again: its result does not count


def test_batches_of_a_lost_node_come_next() -> None:
    schedule = Schedule({number: 10 - number for number in range(6)}, ["a", "b"])
    assert [schedule.next_for(node) for node in "abab"] == [0, 1, 2, 3]
    schedule.lose("a")
    assert schedule.nodes == ("b",)
    assert schedule.next_for("a") is None
    assert schedule.done("b", 1)
    assert schedule.next_for("b") in (0, 2)


def test_batch_goes_back_to_where_it_died_only_for_want_of_others() -> None:
    schedule = Schedule({0: 2, 1: 1}, ["a", "b"])
    assert schedule.next_for("a") == 0
    assert schedule.died("a", 0)
    assert schedule.next_for("a") == 1
    assert schedule.next_for("a") is None
    assert schedule.done("a", 1)
    assert schedule.next_for("a") == 0


def test_batch_that_ends_workers_everywhere_is_given_up() -> None:
    nodes = [f"node {n}" for n in range(BATCH_TRIES)]
    schedule = Schedule({0: 1}, nodes)
    survived = []
    for node in nodes:
        assert schedule.next_for(node) == 0
        survived.append(schedule.died(node, 0))
    assert survived == [True] * (BATCH_TRIES - 1) + [False]


def test_node_on_which_every_worker_ends_gets_no_more_and_costs_no_batch() -> None:
    schedule = Schedule({0: 1}, ["bad", "good"])
    for _ in range(NODE_TRIES):
        assert schedule.next_for("bad") == 0
        assert schedule.died("bad", 0)
    assert schedule.nodes == ("good",)
    assert schedule.next_for("good") == 0


@given(st.data())
def test_every_batch_is_done_once_whatever_dies(data: st.DataObject) -> None:
    nodes = ["a", "b", "c"]
    sizes = data.draw(st.dictionaries(st.integers(0, 30), st.integers(0, 5), max_size=12))
    schedule = Schedule(sizes, nodes)
    held: list[tuple[str, int]] = []
    counted: list[int] = []
    while not schedule.finished:
        for node in nodes:
            if (number := schedule.next_for(node)) is not None:
                held.append((node, number))
        assert held, "nobody has anything to do"
        assert max(Counter(node for node, _ in held).values()) <= AHEAD
        assert max(Counter(number for _, number in held).values()) <= COPIES
        node, number = held.pop(data.draw(st.integers(0, len(held) - 1)))
        end = data.draw(st.sampled_from(("done", "done", "done", "lost")))
        if end == "lost" and len(schedule.nodes) > 1 and node in schedule.nodes:
            schedule.lose(node)
            held = [(other, number) for other, number in held if other != node]
        elif schedule.done(node, number):
            counted.append(number)
    assert sorted(counted) == sorted(sizes)
