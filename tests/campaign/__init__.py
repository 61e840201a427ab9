"""The fault campaign: random schedules of faults and subscribers, checked by an oracle."""
