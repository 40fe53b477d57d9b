"""From noise, chains or a prompt to data: functions of arrays that draw from a model."""
