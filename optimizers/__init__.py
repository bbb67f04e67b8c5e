"""Tuning of a program for a task, a metric and a price.

    compiled = compile(program, trainset=trainset, metric=metric, method="gepa")     # prompts, by DSPy's optimizers
    found = search(task, agents, trainset=trainset, metric=metric, n_trials=40)     # the architecture, by Optuna
    result = optimize(program, trainset=trainset, metric=metric, budget=Budget(usd=5))       # both, and proof
    print(profile(program, devset, metric))                                         # which stage gains, which loses
    print(compare(program, devset=devset, metric=metric))                         # against simpler ones, same spend

Names are loaded on first use; ``import moa_dspy.optimizers`` costs nothing until one is touched.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
