"""The parts that adapt a frozen CLIP: one idea a file, the mathematics only."""
