"""Distillation: a cross-encoder's knowledge of sentences and of words passes into a dual encoder.

losses.py, word_level.py   the three losses (pure torch)
step_losses.py, towers.py, pool.py   one step's losses from both encoders
gather.py, caching.py      negatives of other workers, large batches in little memory
training_set.py, batches.py, collate.py   from tokenised texts to the tensors of one rank's share of one step
prepare.py, checks.py, neighbours.py, filtering.py   from artefacts to the training set
trainer.py, loop.py        one worker's training, and its shell on Ray Train
search_space.py, sweep.py  a small search for weights, temperatures and rate, on Ray Tune
config.py, course.py, student.py, dev_pool.py, distil.py   the step: DistilConfig, distil(config) -> encoder
result.py, student_audit.py, card.py   what comes out: metrics, the student's audit, its model card
"""
