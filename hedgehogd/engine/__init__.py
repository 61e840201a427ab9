"""The core of an instance: tape, gap index, demand, health, budget, elements of the inbox."""
