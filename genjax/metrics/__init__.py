"""How good samples and scores are: functions of arrays, on the host."""
