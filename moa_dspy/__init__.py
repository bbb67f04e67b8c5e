"""Attention-MoA as a DSPy-optimizable program.

Several language models answer the same task, criticise each other's answers and their own, revise, and are synthesised,
layer after layer, with an early stop when a layer brings nothing new (arXiv 2601.16596).

Names are loaded on first use, so ``import moa_dspy`` alone costs nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
