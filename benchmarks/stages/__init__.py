"""The stages of a run, each cached under the hash of all it depends on."""
