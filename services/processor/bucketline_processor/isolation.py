"""A unit with which processors died: one object at a time, alone in this process, so that it is known which ends it.

The unit's lease says who is being tried. When that is the last that was heard of a processor, the object is a suspect
in the unit from its next lease on. What nobody suspects goes first; a suspect is tried once more at the end, and one
with which ``MAX_ISOLATED_CRASHES`` processors ended fails. All else of the unit goes on, and what merely shared a
processor with it
is not blamed.

A processor that stood still for longer than its lease counts as one that ended. What was finished and not recorded yet
is tried again, or fails, without harm: its first final status counts.
"""

import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence

from bucketline_processor.leases import Leases
from bucketline_processor.unit_items import ItemGroup

MAX_ISOLATED_CRASHES = 2
"""Processors that an object may end alone."""

ALONE_SECONDS = 10.0
"""After so long the others have their turn; what is being tried by then comes to its end first."""

MAX_LEFT = 3
"""Objects that could not be finished now, until the rest is left as well: stores are away, not one of their keys."""


async def run_isolated(
    todo: Sequence[ItemGroup],
    leases: Leases,
    attempt: Callable[[ItemGroup], Awaitable[bool]],
    convict: Callable[[ItemGroup, int], Awaitable[bool]],
) -> bool:
    """Whether every item has its final status on the bus.

    ``attempt`` works on an item, ``convict`` fails one with which so many processors ended; both tell whether its
    final status was said. Raises ``StoreUnavailable`` when the lease cannot be kept up to date.
    """
    unit = todo[0].unit
    ended = Counter(unit.get("crashed_items", ()))
    await leases.careful(unit["_id"])
    lost = 0
    for work in todo:
        if ended[work.place] >= MAX_ISOLATED_CRASHES:
            lost += not await convict(work, ended[work.place])
    waiting = deque(sorted((w for w in todo if ended[w.place] < MAX_ISOLATED_CRASHES), key=lambda w: ended[w.place]))
    while waiting and lost < MAX_LEFT:
        async with leases.alone(unit["_id"]):
            ends = time.monotonic() + ALONE_SECONDS
            while waiting and lost < MAX_LEFT:
                work = waiting.popleft()
                if not await leases.set_current_item(unit["_id"], work.place):
                    return False  # another has the unit
                lost += not await attempt(work)
                if time.monotonic() >= ends:
                    break
    return not lost
