"""Training of policies: one file per method behind one interface."""
