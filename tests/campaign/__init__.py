"""The fault campaign: random schedules of faults and subscribers, judged by an oracle."""
