"""Adiabatic tuning of the query encoder: the passages' vectors stay, the query encoder moves, every language is kept.

config.py, inputs.py, tune.py     the step: `tune(config, progress) -> encoder`; result.py publishes it, with card.py
prepare_run.py, prepare.py        what is learnt from, checked by english.py; training_set.py and batches.py hold and draw it
losses.py, freezing.py, precise.py   how it is scored, what stays, and an optimiser whose small steps are not rounded away
trainer.py, loop.py               one worker's part, and Ray Train round it
ladder.py, sweep.py, outcome.py   the search for the highest safe rate: which is next, Ray Tune, how a trial ended
guard.py and its neighbours       the language guard: guard_sets.py, looks.py, judging.py
delta.py, page.py                 what is stored and shown: the lossless difference to the base, the report's page
"""
