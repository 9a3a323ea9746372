"""Studies on Ray: plans, trainings, the results store, searches and reports."""

import gc

# Imports make half a million objects that live as long as the process: to look for garbage among them again and again
# takes half a second of the start of every process of a study.
gc.set_threshold(10_000, 20, 50)
