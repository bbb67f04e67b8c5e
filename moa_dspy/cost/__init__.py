"""Usage, prices and budgets of calls."""
