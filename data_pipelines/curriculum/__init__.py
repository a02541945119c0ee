"""A stage of the curriculum: which clips, of which shapes, in which order. Nothing here holds a stage's samples.

`stage` says what a stage is, `buckets` sorts clips by the shapes of batches, `schedule` computes what is drawn when,
`permutation` shuffles without a table. The loader makes a Grain stream of them.
"""
