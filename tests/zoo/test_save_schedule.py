"""When points are saved: by steps and by the clock, here one that is set by hand."""

from vlmzoo.training.save_schedule import SaveSchedule


class Clock:
    """Stands still, in seconds, until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def saved(schedule: SaveSchedule, clock: Clock, took: float) -> None:
    with schedule.saving():
        clock.now += took


def test_by_steps_alone() -> None:
    clock = Clock()
    schedule = SaveSchedule(3, None, clock)
    clock.now += 10**9
    assert [done for done in range(1, 10) if schedule.due(done)] == [3, 6, 9]


def test_once_the_minutes_have_gone_by_since_the_last_one() -> None:
    clock = Clock()
    schedule = SaveSchedule(100, 2.0, clock)
    clock.now += 119
    assert not schedule.due(1)
    clock.now += 1
    assert schedule.due(1)
    saved(schedule, clock, took=1)
    clock.now += 119
    assert not schedule.due(2)
    clock.now += 1
    assert schedule.due(2)


def test_one_by_steps_begins_the_minutes_anew() -> None:
    clock = Clock()
    schedule = SaveSchedule(2, 2.0, clock)
    clock.now += 100
    assert schedule.due(2)
    saved(schedule, clock, took=0)
    clock.now += 100
    assert not schedule.due(3)
    clock.now += 20
    assert schedule.due(3)


def test_saving_by_the_clock_takes_little_of_the_time() -> None:
    """Steps of 90 seconds, and a save of 30: one in four steps, not each of them. The last save is the measure."""
    clock = Clock()
    schedule = SaveSchedule(1000, 1.0, clock)
    steps = []
    for done in range(1, 13):
        clock.now += 90
        if schedule.due(done):
            steps.append(done)
            saved(schedule, clock, took=30)
    assert steps == [1, 5, 9]
    saved(schedule, clock, took=1)
    clock.now += 60
    assert schedule.due(13)


def test_what_a_save_takes_never_holds_up_those_by_steps() -> None:
    clock = Clock()
    schedule = SaveSchedule(1, 1.0, clock)
    saved(schedule, clock, took=10**6)
    assert schedule.due(1)
