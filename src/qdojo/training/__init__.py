"""Runs training: records, evaluates, selects, checkpoints and stops. `loops/` and `agents/` do the learning."""
