"""Models, from a folder to numbers: networks, adapters, layouts, samplers, reward models."""
