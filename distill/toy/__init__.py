"""Distillation of a Markov chain whose score is known: every stage's result can be compared with the right answer."""
