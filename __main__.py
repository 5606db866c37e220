"""`python -m alignment_bench` is the `bench` command."""

from .benchmarks.cli.main import main

main()
