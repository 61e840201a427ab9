"""Floor 1: how peers talk, sans-I/O. Bytes in, values out; time and chance are arguments."""
