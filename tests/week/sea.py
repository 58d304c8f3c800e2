"""The source in each night of the week; the same sea for the disturbed and the undisturbed one."""

from dataclasses import replace
from datetime import date, timedelta

from datlstm.settings import Region
from datlstm.synthetic.marine_store.world import World, ostia_world
from tests.conftest import LAST_DAY
from tests.faults.marine import NEAR_REAL_TIME, SEED

ONE_DAY = timedelta(days=1)
FIRST_NIGHT = LAST_DAY + 2 * ONE_DAY
NIGHTS = [FIRST_NIGHT + i * ONE_DAY for i in range(7)]
REVISED_DAY = NIGHTS[3] - ONE_DAY
PRELIMINARY_KELVIN = 0.5
"""What the fourth night reads of its newest day is so much too warm; the fifth reads what it is."""


def sea_on(region: Region, night: date, account: tuple[str, str]) -> World:
    """Return what the source shows in a night, to whoever has the account."""
    world = ostia_world(region, SEED, night - ONE_DAY)
    if night == REVISED_DAY + ONE_DAY:
        world = world.changed(NEAR_REAL_TIME, preliminary_days={REVISED_DAY: PRELIMINARY_KELVIN})
    return replace(world, username=account[0], password=account[1])
