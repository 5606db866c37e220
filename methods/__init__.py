"""How a policy is trained: one file per method behind one interface."""
