"""How peers talk, without I/O: bytes in, values out; time and chance are arguments."""
