"""What books, recovery and fan-out share: the tape, demand, health, the budget of backlogs."""
