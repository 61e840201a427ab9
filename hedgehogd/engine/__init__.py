"""The core of an instance: tape, gap index, demand, health, budget, records of the inbox."""
