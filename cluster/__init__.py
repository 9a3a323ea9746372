"""Studies on Ray: plans, trainings, the results store, searches and reports."""

import atexit
import gc

# Imports make half a million objects that live as long as the process. Looking for garbage among them again and again
# takes half a second of the start of every process of a study, and more than a second of its end.
gc.set_threshold(10_000, 20, 50)
atexit.register(gc.freeze)
