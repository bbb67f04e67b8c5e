"""What a run leaves out when its budget runs short: room is kept for calls under way and for further layers."""

from __future__ import annotations

from moa_dspy import Budget
from moa_dspy.cost.budget import Amounts
from moa_dspy.runtime.degrade import RunBudget


def used(tokens: float = 0, usd: float = 0.0, calls: int = 1) -> Amounts:
    return Amounts(calls, tokens, usd, seconds=1.0)


def run_budget(budget: Budget, seconds: float = 0.0) -> RunBudget:
    return RunBudget(budget, lambda: seconds)


def test_a_call_under_way_is_taken_to_need_twice_as_much_as_the_average_call() -> None:
    budget = run_budget(Budget(tokens=250))
    assert budget.reserve("propose")
    budget.settle(used(tokens=100))
    assert budget.reserve("propose")  # 100 spent, nothing under way
    assert not budget.reserve("propose")  # 100 spent, 200 for the call under way
    assert budget.refused
    budget.settle(used(tokens=100))
    assert budget.reserve("propose")


def test_the_same_holds_for_dollars() -> None:
    budget = run_budget(Budget(usd=0.25))
    budget.reserve("critique")
    budget.settle(used(usd=0.1))
    assert budget.reserve("critique")
    assert not budget.reserve("critique")


def test_a_further_layer_is_taken_to_need_a_quarter_more_for_each_call() -> None:
    def fits(tokens: int) -> bool:
        budget = run_budget(Budget(tokens=tokens))
        for _ in range(4):
            budget.reserve("propose")
            budget.settle(used(tokens=100))
        return budget.further_layer(4, ["aggregate"])

    assert fits(901)  # 400 spent, 1.25 times 400 needed, and something left
    assert not fits(900)
    assert not fits(850)


def test_a_further_layer_needs_more_for_more_calls_and_as_many_seconds_as_the_last_one() -> None:
    def fits(seconds_passed: float) -> bool:
        clock = [0.0]
        budget = RunBudget(Budget(usd=1.01, seconds=10), lambda: clock[0])
        for _ in range(2):
            budget.reserve("propose")
            budget.settle(used(usd=0.1))
        clock[0] = seconds_passed
        return budget.further_layer(6, ["aggregate"])

    assert fits(4.9)
    assert not fits(5.1)
    dear = run_budget(Budget(usd=0.94))
    dear.reserve("propose")
    dear.settle(used(usd=0.1))
    assert dear.further_layer(6, [])
    dear = run_budget(Budget(usd=0.84))
    dear.reserve("propose")
    dear.settle(used(usd=0.1))
    assert not dear.further_layer(6, [])


def test_what_is_held_for_the_layers_answer_is_twice_the_largest_call() -> None:
    budget = run_budget(Budget(calls=10, tokens=400))
    budget.first_layer([0, 0], ["aggregate"])
    budget.reserve("propose")
    budget.settle(used(tokens=150))
    assert not budget.reserve("propose")  # 150 spent, 300 held
    assert budget.reserve("aggregate")
