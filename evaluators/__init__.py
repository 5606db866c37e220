"""How a policy is scored: one file per evaluator behind one interface."""
