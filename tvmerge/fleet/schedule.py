"""Which machine runs which batch next; knows nothing of how a batch is run.

The largest batch that is left goes to whoever has room, a little ahead of need. When none is left,
an idle node runs a batch that another still has, and the first result counts: a batch always
writes the same bytes to the same places, so a slow, busy or lost node holds nothing up.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

# One runs and one waits behind it: no node idles while its result travels.
AHEAD = 2
# At most so many nodes have a batch at once.
COPIES = 2
# A node on which so many workers in a row ended gets no more work: no single node ends the merge.
NODE_TRIES = 2
# A batch that ended so many workers does.
BATCH_TRIES = 4


class Schedule:
    """Hands out the batches of a merge (by number, with their sizes in bytes) to nodes."""

    def __init__(
        self, sizes: Mapping[int, int], nodes: Iterable[str], *, ahead: int = AHEAD
    ) -> None:
        self._ahead = ahead
        self._waiting = sorted(sizes, key=lambda number: -sizes[number])
        self._held: dict[str, list[int]] = {node: [] for node in nodes}
        self._left = set(sizes)
        self._died_on: dict[int, list[str]] = defaultdict(list)
        self._deaths_in_a_row: Counter[str] = Counter()

    @property
    def finished(self) -> bool:
        """Whether every batch is done."""
        return not self._left

    def is_done(self, number: int) -> bool:
        """Whether the batch is done."""
        return number not in self._left

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that are still given work."""
        return tuple(self._held)

    def next_for(self, node: str) -> int | None:
        """A batch for `node` to run, held by it from now on; None where it should wait."""
        held = self._held.get(node)
        if held is None or len(held) >= self._ahead:
            return None
        number = next(self._candidates(node), None)
        if number is not None:
            held.append(number)
            if number in self._waiting:
                self._waiting.remove(number)
        return number

    def done(self, node: str, number: int) -> bool:
        """`node` has run a batch; False where another did so before: its result counts."""
        self._deaths_in_a_row[node] = 0
        self._put_down(node, number)
        first = number in self._left
        self._left.discard(number)
        if number in self._waiting:
            self._waiting.remove(number)
        return first

    def died(self, node: str, number: int) -> bool:
        """A worker ended without a result; False where the batch has ended too many."""
        self._put_down(node, number)
        self._died_on[number].append(node)
        self._deaths_in_a_row[node] += 1
        if self._deaths_in_a_row[node] >= NODE_TRIES:
            self.lose(node)
        self._return(number)
        return number not in self._left or len(self._died_on[number]) < BATCH_TRIES

    def lose(self, node: str) -> None:
        """`node` is gone: what it had is for the others."""
        for number in self._held.pop(node, []):
            self._return(number)

    def _candidates(self, node: str) -> Iterator[int]:
        """What `node` could run, best first; a batch that died there only for want of others."""
        yield from (n for n in self._waiting if node not in self._died_on[n])
        if not self._held[node]:
            yield from (n for n in self._held_by_others(node) if node not in self._died_on[n])
            yield from self._waiting

    def _held_by_others(self, node: str) -> list[int]:
        """What others have, and no third; what they have not begun comes first."""
        copies = Counter(number for held in self._held.values() for number in held)
        queues = [held for other, held in self._held.items() if other != node]
        ranked = [
            q[place] for place in reversed(range(self._ahead)) for q in queues if place < len(q)
        ]
        return [n for n in ranked if n in self._left and copies[n] < COPIES]

    def _put_down(self, node: str, number: int) -> None:
        held = self._held.get(node, [])
        if number in held:
            held.remove(number)

    def _return(self, number: int) -> None:
        """Wait again, first in line, unless it is done, waits, or another has it."""
        held = any(number in numbers for numbers in self._held.values())
        if number in self._left and number not in self._waiting and not held:
            self._waiting.insert(0, number)
