"""The training of weights: the optimizer loop, its log, checkpoints and probe, SFT and reward models."""
