"""How a model folder becomes numbers: networks, adapters, layouts, samplers, reward models."""
