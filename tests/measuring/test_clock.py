"""What is compared takes turns, each by its own seconds."""

import random
import time

from espnet_prune.measuring.clock import turn


def test_each_task_runs_once_and_has_its_own_seconds():
    ran = []

    def task(name, seconds):
        ran.append(name)
        time.sleep(seconds)

    tasks = {"slow": lambda: task("slow", 0.05), "quick": lambda: task("quick", 0.001)}
    took = turn(tasks, random.Random(0))
    assert sorted(ran) == ["quick", "slow"]
    assert list(took) == ["slow", "quick"]
    assert 0.05 <= took["slow"] < 2
    assert 0.001 <= took["quick"] < took["slow"]


def test_turns_are_in_drawn_orders():
    ran, order = [], random.Random(0)
    tasks = {name: lambda name=name: ran.append(name) for name in "abc"}
    for _ in range(20):
        turn(tasks, order)
    orders = {tuple(ran[i : i + 3]) for i in range(0, len(ran), 3)}
    assert len(orders) > 3
    assert all(sorted(names) == ["a", "b", "c"] for names in orders)
