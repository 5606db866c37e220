"""The processes of a run: joining, sharing, memory, what a terminal hears."""
