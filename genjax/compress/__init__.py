"""Files without loss by a run's model, and back: `genjax compress`, `genjax decompress`."""
