"""Tuning a program for a task, a metric and a price.

    compiled = compile(program, trainset=trainset, metric=metric, method="gepa")    # prompts, with DSPy's optimizers
    found = search(task, agents, trainset=trainset, metric=metric, n_trials=40)     # the architecture, with Optuna
    result = optimize(program, trainset=trainset, metric=metric)                    # both, and a held-out test
    print(compare(program, devset=devset, metric=metric))                           # against simpler programs

Names are loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
