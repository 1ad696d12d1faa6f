"""The laboratory behind `./compare`: machine, processes, peers, measures, report. Python's standard library only."""
