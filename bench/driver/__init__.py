"""The parts of bench/run: programs, servers and their accounts, measures, the report."""
