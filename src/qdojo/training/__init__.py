"""Runs training: records, evaluates, selects, checkpoints and stops. Not for learning: see `loops/` and `agents/`."""
